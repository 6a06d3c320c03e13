//! What Helm wraps around a Go template that is not its own: `` {{`{{ .Name }}`}} `` and `{{ "{{" }} .Name {{ "}}" }}`.

/// The text with Helm's string literals in the place of the actions that print them, and whether there were any.
pub fn without_escapes(text: &str) -> (String, bool) {
    let mut plain = String::new();
    let mut rest = text;
    let mut found = false;
    while let Some(start) = rest.find("{{") {
        plain.push_str(&rest[..start]);
        match literal(&rest[start..]) {
            Some((value, length)) => {
                plain.push_str(&value);
                rest = &rest[start + length..];
                found = true;
            }
            None => {
                plain.push_str("{{");
                rest = &rest[start + 2..];
            }
        }
    }
    plain.push_str(rest);
    (plain, found)
}

/// The value of an action that is one string literal, and the bytes that the action takes.
fn literal(action: &str) -> Option<(String, usize)> {
    let inner = action.strip_prefix("{{")?;
    let inner = inner
        .strip_prefix("- ")
        .unwrap_or(inner)
        .trim_start_matches(' ');
    let mut chars = inner.chars();
    let quote = chars.next().filter(|c| "`\"".contains(*c))?;
    let mut value = String::new();
    loop {
        match chars.next()? {
            c if c == quote => break,
            '\\' if quote == '"' => match chars.next()? {
                'n' => value.push('\n'),
                't' => value.push('\t'),
                c => value.push(c),
            },
            '\n' if quote == '"' => return None,
            c => value.push(c),
        }
    }
    let rest = chars.as_str().trim_start_matches(' ');
    let rest = rest.strip_prefix('-').unwrap_or(rest).strip_prefix("}}")?;
    Some((value, action.len() - rest.len()))
}

/// A line of a chart's template that is one action and nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// From 1.
    pub line: usize,
    pub text: String,
    /// Whether it puts in text that is not at hand.
    pub brings_text: bool,
}

/// Blanks the lines that are actions of Helm alone, and returns those that decide what the Corefile holds.
pub fn without_controls(text: &str) -> (String, Vec<Control>) {
    let mut plain = String::new();
    let mut controls = Vec::new();
    for (index, line) in text.split('\n').enumerate() {
        if index > 0 {
            plain.push('\n');
        }
        let action = line
            .trim()
            .strip_prefix("{{")
            .and_then(|rest| rest.strip_suffix("}}"))
            .filter(|inner| !inner.contains("}}"));
        let Some(action) = action else {
            plain.push_str(line);
            continue;
        };
        let action = action.strip_prefix('-').unwrap_or(action);
        let action = action.strip_suffix('-').unwrap_or(action).trim();
        let decides = ["if ", "else", "range ", "with "];
        let silent = action == "end" || action.starts_with("/*") || action.starts_with('$');
        if !silent {
            controls.push(Control {
                line: index + 1,
                text: line.trim().to_owned(),
                brings_text: !decides.iter().any(|word| action.starts_with(word)),
            });
        }
    }
    (plain, controls)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_of_helm() {
        for (text, plain) in [
            ("x {{`{{ .Name }}`}} y {{`z", "x {{ .Name }} y {{`z"),
            ("{{ `{{ .Name }}` }}", "{{ .Name }}"),
            (r#"{{ "{{" }} .Name {{ "}}" }} 60"#, "{{ .Name }} 60"),
            (r#"{{- "{{" -}} .Name }}"#, "{{ .Name }}"),
        ] {
            assert_eq!(without_escapes(text), (plain.to_owned(), true), "{text}");
        }
        let (text, controls) =
            without_controls("a {\n{{- if .x }}\n b\n {{ include \"c\" . }}\n{{- end }}\n}");
        assert_eq!(text, "a {\n\n b\n\n\n}");
        let seen: Vec<_> = controls.iter().map(|c| (c.line, c.brings_text)).collect();
        assert_eq!(seen, [(2, false), (4, true)]);
        for text in ["{{ .Name }}", "{{ `a` | b }}", "{{ \"a", "{{"] {
            assert_eq!(without_escapes(text), (text.to_owned(), false));
        }
    }
}
