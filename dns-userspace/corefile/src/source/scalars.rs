//! The strings of YAML, JSON, HCL and of what `kubectl describe` prints, with the key in front and the lines they come
//! from. Tolerant, because templates of Helm and parts of files are none of these in full.

/// A string under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scalar {
    /// "" where there is none.
    pub key: String,
    pub text: String,
    /// Of each line of the text, the line it comes from, from 0.
    pub lines: Vec<usize>,
    /// The lines that it takes, from 0.
    pub first_line: usize,
    pub last_line: usize,
}

/// Whether the value of a YAML key is the header of a block scalar.
pub fn is_block_header(value: &str) -> bool {
    let value = value.split(" #").next().unwrap_or("").trim();
    let mut chars = value.chars();
    matches!(chars.next(), Some('|' | '>')) && chars.all(|c| c.is_ascii_digit() || "+-".contains(c))
}

/// Whether a line begins a here-document.
pub fn is_heredoc(line: &str) -> bool {
    heredoc_tag(line).is_some()
}

fn heredoc_tag(line: &str) -> Option<(&str, bool)> {
    let at = line.find("<<")?;
    let rest = &line[at + 2..];
    let indented = rest.starts_with(['-', '~']);
    let rest = rest.trim_start_matches(['-', '~']).trim_start();
    let rest = rest.trim_start_matches(['"', '\'']);
    let end = rest
        .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .unwrap_or(rest.len());
    let tag = &rest[..end];
    let good = tag.len() >= 2 && tag.starts_with(|c: char| c.is_ascii_uppercase());
    good.then_some((tag, indented))
}

/// The strings of a text in their order.
pub fn scalars(text: &str) -> Vec<Scalar> {
    let lines: Vec<&str> = text
        .split('\n')
        .map(|line| line.strip_suffix('\r').unwrap_or(line))
        .collect();
    let mut found = Vec::new();
    let mut at = 0;
    let mut column = 0;
    while at < lines.len() {
        let line = lines[at];
        if column == 0 {
            if line.trim_start().starts_with('#') {
                at += 1;
                continue;
            }
            if let Some(scalar) = whole_lines(&lines, at) {
                at = scalar.last_line + 1;
                found.push(scalar);
                continue;
            }
        }
        match next_quoted(&lines, at, column) {
            Some((scalar, end)) => {
                column = end;
                at = scalar.last_line;
                found.push(scalar);
            }
            None => {
                at += 1;
                column = 0;
            }
        }
    }
    found
}

/// A string of whole lines, whose header is at `at`.
fn whole_lines(lines: &[&str], at: usize) -> Option<Scalar> {
    described(lines, at)
        .or_else(|| heredoc(lines, at))
        .or_else(|| block(lines, at))
}

/// `KEY:` and `----` on a line each, as `kubectl describe configmap` prints them.
fn described(lines: &[&str], at: usize) -> Option<Scalar> {
    let header = |at: usize| -> Option<&str> {
        let key = lines.get(at)?.strip_suffix(':')?;
        let ruled = lines
            .get(at + 1)
            .is_some_and(|line| line.trim_end() == "----");
        (ruled && !key.contains(char::is_whitespace)).then_some(key)
    };
    let key = header(at)?;
    let start = at + 2;
    let end = (start..lines.len())
        .find(|&line| {
            header(line).is_some()
                || matches!(lines[line].trim_end(), "BinaryData" | "Events:")
                || lines[line].starts_with("Events: ")
        })
        .unwrap_or(lines.len());
    Some(Scalar {
        key: key.to_owned(),
        text: lines[start.min(end)..end].join("\n"),
        lines: (start..end).collect(),
        first_line: at,
        last_line: end - 1,
    })
}

fn heredoc(lines: &[&str], at: usize) -> Option<Scalar> {
    let (tag, _) = heredoc_tag(lines[at])?;
    let end = (at + 1..lines.len())
        .find(|&line| lines[line].trim().trim_end_matches([')', ',', ';']).eq(tag))?;
    let before = lines[at].split("<<").next().unwrap_or("");
    Some(Scalar {
        key: key_in_front(before),
        text: lines[at + 1..end].join("\n"),
        lines: (at + 1..end).collect(),
        first_line: at,
        last_line: end,
    })
}

/// A block scalar of YAML.
fn block(lines: &[&str], at: usize) -> Option<Scalar> {
    let line = lines[at];
    let mut indent = line.len() - line.trim_start_matches(' ').len();
    let mut rest = &line[indent..];
    while let Some(item) = rest.strip_prefix("- ") {
        let inner = item.trim_start_matches(' ');
        indent += rest.len() - inner.len();
        rest = inner;
    }
    let (key, value) = match rest.rsplit_once(": ") {
        Some((key, value)) => (key, value),
        None if is_block_header(rest) => ("", rest),
        None => return None,
    };
    if !is_block_header(value) || key.contains("{{") {
        return None;
    }
    // A list's item has its text deeper than its dash.
    let parent = if key.is_empty() {
        indent.saturating_sub(2)
    } else {
        indent
    };
    let value = value.split(" #").next().unwrap_or(value).trim();
    let given = value
        .chars()
        .find_map(|c| c.to_digit(10))
        .map(|digit| parent + digit as usize);
    let depth = |line: &str| line.len() - line.trim_start_matches(' ').len();
    let empty = |line: &str| line.trim().is_empty();
    let first =
        (at + 1..lines.len()).find(|&line| !empty(lines[line]) && !is_action(lines[line]))?;
    let inner = given.unwrap_or(depth(lines[first]));
    if inner < parent || (inner == parent && !key.is_empty()) {
        return None;
    }
    let mut end = (at + 1..lines.len())
        .find(|&line| !empty(lines[line]) && depth(lines[line]) < inner && !is_action(lines[line]))
        .unwrap_or(lines.len());
    while end > first && (empty(lines[end - 1]) || is_action(lines[end - 1])) {
        end -= 1;
    }
    let content: Vec<&str> = lines[at + 1..end]
        .iter()
        .map(|line| line.get(inner.min(depth(line))..).unwrap_or(""))
        .collect();
    let (text, own) = if value.starts_with('>') {
        fold(&content, at + 1)
    } else {
        (content.join("\n"), (at + 1..end).collect())
    };
    Some(Scalar {
        key: key.trim().trim_matches(['"', '\'']).to_owned(),
        text,
        lines: own,
        first_line: at,
        last_line: end - 1,
    })
}

/// An action of Helm that is alone on its line, at any indentation.
fn is_action(line: &str) -> bool {
    line.trim_start().starts_with("{{")
}

/// The text of a folded block scalar: line breaks between lines that are not indented become blanks.
fn fold(content: &[&str], first: usize) -> (String, Vec<usize>) {
    let mut text = String::new();
    let mut lines = vec![first];
    let mut before: Option<bool> = None;
    let mut empty = 0;
    for (index, line) in content.iter().enumerate() {
        if line.is_empty() {
            empty += 1;
            continue;
        }
        let plain = !line.starts_with([' ', '\t']);
        let breaks = match before {
            None => empty,
            Some(true) if plain && empty == 0 => {
                text.push(' ');
                0
            }
            Some(true) if plain => empty,
            Some(_) => empty + 1,
        };
        for _ in 0..breaks {
            text.push('\n');
            lines.push(first + index);
        }
        text.push_str(line);
        before = Some(plain);
        empty = 0;
    }
    (text, lines)
}

/// The next string in quotes that is a value, on the line `at` or one behind it up to which nothing else begins.
fn next_quoted(lines: &[&str], at: usize, column: usize) -> Option<(Scalar, usize)> {
    let line = lines[at];
    let mut from = column;
    while let Some(offset) = line.get(from..)?.find(['"', '\'']) {
        let start = from + offset;
        let quote = line.as_bytes()[start];
        let before = &line[..start];
        let begins = before.is_empty()
            || before.ends_with(|c: char| c.is_whitespace() || ":=,[{(".contains(c));
        if !begins {
            from = start + 1;
            continue;
        }
        let Some((text, own, last_line, end)) = quoted(lines, at, start + 1, quote) else {
            from = start + 1;
            continue;
        };
        let is_key = last_line == at
            && lines[at][end..].trim_start().starts_with([':', '='])
            && !before.trim_end().ends_with([':', '=']);
        if is_key {
            from = end;
            continue;
        }
        let scalar = Scalar {
            key: key_in_front(before),
            text,
            lines: own,
            first_line: at,
            last_line,
        };
        return Some((scalar, end));
    }
    None
}

/// A string in quotes from behind the opening one: its text, the line of each of its lines, and where it ends.
fn quoted(
    lines: &[&str],
    at: usize,
    column: usize,
    quote: u8,
) -> Option<(String, Vec<usize>, usize, usize)> {
    let quote = char::from(quote);
    let mut out = Quoted {
        text: String::new(),
        lines: vec![at],
        fresh: true,
        blanks_from: 0,
    };
    let mut line = at;
    let mut rest = lines[at].get(column..)?;
    loop {
        let Some(c) = rest.chars().next() else {
            // A line break inside quotes: one is a blank, more are one less.
            out.drop_blanks();
            let mut breaks = 0;
            while rest.is_empty() {
                line += 1;
                breaks += 1;
                rest = lines.get(line)?.trim_start();
            }
            if breaks == 1 {
                out.push(' ', line);
                out.keep();
            } else {
                for _ in 1..breaks {
                    out.push('\n', line);
                }
            }
            continue;
        };
        rest = &rest[c.len_utf8()..];
        if c == quote {
            if quote == '\'' && rest.starts_with('\'') {
                rest = &rest[1..];
                out.push('\'', line);
                continue;
            }
            let end = lines[line].len() - rest.len();
            return Some((out.text, out.lines, line, end));
        }
        if c != '\\' || quote == '\'' {
            out.push(c, line);
            continue;
        }
        let Some(escape) = rest.chars().next() else {
            // The line goes on without a blank.
            line += 1;
            rest = lines.get(line)?.trim_start();
            continue;
        };
        rest = &rest[escape.len_utf8()..];
        let digits = match escape {
            'x' => 2,
            'u' => 4,
            'U' => 8,
            _ => 0,
        };
        if digits > 0 {
            let code = u32::from_str_radix(rest.get(..digits)?, 16).ok()?;
            rest = &rest[digits..];
            out.push(
                char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER),
                line,
            );
        } else {
            let c = match escape {
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                '0' => '\0',
                'a' => '\u{7}',
                'b' => '\u{8}',
                'e' => '\u{1b}',
                'f' => '\u{c}',
                'v' => '\u{b}',
                'N' => '\u{85}',
                '_' => '\u{a0}',
                c => c,
            };
            out.push(c, line);
        }
        out.keep();
    }
}

struct Quoted {
    text: String,
    lines: Vec<usize>,
    /// Nothing but blanks so far on the last line.
    fresh: bool,
    /// Blanks before this offset were escaped, and stay.
    blanks_from: usize,
}

impl Quoted {
    fn push(&mut self, c: char, line: usize) {
        self.text.push(c);
        if c == '\n' {
            self.lines.push(line);
            self.fresh = true;
        } else if self.fresh && !c.is_whitespace() {
            if let Some(last) = self.lines.last_mut() {
                *last = line;
            }
            self.fresh = false;
        }
    }

    fn keep(&mut self) {
        self.blanks_from = self.text.len();
    }

    fn drop_blanks(&mut self) {
        let kept = self.text[self.blanks_from..]
            .trim_end_matches([' ', '\t'])
            .len();
        self.text.truncate(self.blanks_from + kept);
    }
}

/// The last word before a `:` or `=` that ends the text.
fn key_in_front(before: &str) -> String {
    let before = before.trim_end();
    let Some(before) = before.strip_suffix([':', '=']) else {
        return String::new();
    };
    before
        .trim_end()
        .trim_end_matches(['"', '\''])
        .rsplit(|c: char| c.is_whitespace() || "\"',{[(".contains(c))
        .next()
        .unwrap_or("")
        .to_owned()
}
