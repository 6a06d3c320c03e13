//! Splits a Corefile into words: quotes, comments, line numbers. The meaning of the words is not its subject.

/// One word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    pub text: String,
    /// The document that it is in.
    pub document: usize,
    /// Its line in that document, from 1.
    pub line: usize,
    /// Line breaks inside it, which only a quoted word can have.
    breaks: usize,
}

impl Token {
    /// Whether `next` begins on another line than the one that this word ends on.
    pub fn ends_line(&self, next: &Token) -> bool {
        self.document != next.document || self.line + self.breaks != next.line
    }
}

/// A quote that is not closed, by its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unclosed {
    pub line: usize,
}

/// Splits a document into words, as CoreDNS does: a quote counts at the start of a word only, inside quotes only `\"` is an
/// escape, and `#` begins a comment anywhere outside of quotes, also in the middle of a word.
pub fn tokens(text: &str, document: usize) -> Result<Vec<Token>, Unclosed> {
    let mut tokens = Vec::new();
    let mut line = 1;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '\n' {
            line += 1;
        } else if c == '#' {
            while chars.next_if(|&c| c != '\n').is_some() {}
        } else if c == '"' {
            let start = line;
            let text = quoted(&mut chars, &mut line).ok_or(Unclosed { line: start })?;
            tokens.push(Token {
                text,
                document,
                line: start,
                breaks: line - start,
            });
        } else if !c.is_whitespace() {
            let mut text = String::from(c);
            // A carriage return is dropped and ends no word.
            while let Some(c) = chars.next_if(|&c| c == '\r' || !(c.is_whitespace() || c == '#')) {
                if c != '\r' {
                    text.push(c);
                }
            }
            tokens.push(Token {
                text,
                document,
                line,
                breaks: 0,
            });
        }
    }
    Ok(tokens)
}

/// The rest of a quoted word.
fn quoted(
    chars: &mut std::iter::Peekable<std::str::Chars<'_>>,
    line: &mut usize,
) -> Option<String> {
    let mut text = String::new();
    loop {
        match chars.next()? {
            '"' => return Some(text),
            '\\' => match chars.next()? {
                '"' => text.push('"'),
                // Any other backslash stays, and shields the character behind it, which may be a backslash too.
                c => {
                    *line += usize::from(c == '\n');
                    text.push('\\');
                    text.push(c);
                }
            },
            c => {
                *line += usize::from(c == '\n');
                text.push(c);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        tokens(text, 0)
            .unwrap()
            .into_iter()
            .map(|token| token.text)
            .collect()
    }

    #[test]
    fn comments_begin_anywhere_outside_of_quotes() {
        assert_eq!(words("a#b c\nd # e\n#f\n\"g#h\" i"), ["a", "d", "g#h", "i"]);
        assert_eq!(words("}#end"), ["}"]);
    }

    #[test]
    fn quotes() {
        assert_eq!(words(r#""a \"b\" \. \\" c"#), [r#"a "b" \. \\"#, "c"]);
        assert_eq!(words(r#"a"b c"#), ["a\"b", "c"]);
        assert_eq!(words(r#""a"b"#), ["a", "b"]);
        assert_eq!(words(r#""""#), [""]);
        assert_eq!(tokens("\n\"a\n", 0), Err(Unclosed { line: 2 }));
        assert_eq!(tokens("\"a\\", 0), Err(Unclosed { line: 1 }));
    }

    #[test]
    fn lines() {
        let tokens = tokens("a \"b\nc\" d\r\ne", 0).unwrap();
        assert!(!tokens[0].ends_line(&tokens[1]));
        assert!(!tokens[1].ends_line(&tokens[2]));
        assert!(tokens[2].ends_line(&tokens[3]));
        assert_eq!((tokens[2].text.as_str(), tokens[3].line), ("d", 3));
    }
}
