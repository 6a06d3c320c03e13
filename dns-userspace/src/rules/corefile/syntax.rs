//! A Corefile's syntax: words, quotes, comments, blocks; and what Helm wraps around a Go template inside it.

/// Deepest nesting of blocks.
const MAX_DEPTH: usize = 8;

/// A line of words and the block that may follow it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// From 1.
    pub line: usize,
    /// Never empty.
    pub words: Vec<String>,
    pub block: Option<Vec<Statement>>,
}

impl Statement {
    /// A word, or "" where there is none.
    pub fn word(&self, index: usize) -> &str {
        self.words.get(index).map_or("", String::as_str)
    }
}

/// Why a text is no Corefile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyntaxError {
    pub line: usize,
    pub problem: String,
}

/// The text without Helm's raw strings (`` {{`…`}} `` becomes `…`), and whether there were any.
pub fn without_helm(text: &str) -> (String, bool) {
    let mut plain = String::new();
    let mut rest = text;
    let mut found = false;
    while let Some(start) = rest.find("{{`") {
        let Some(length) = rest[start + 3..].find("`}}") else {
            break;
        };
        plain.push_str(&rest[..start]);
        plain.push_str(&rest[start + 3..][..length]);
        rest = &rest[start + 3 + length + 3..];
        found = true;
    }
    plain.push_str(rest);
    (plain, found)
}

struct Word {
    line: usize,
    text: String,
    quoted: bool,
}

/// The words of a text as CoreDNS reads them: in quotes, only `\"` is an escape.
fn words(text: &str) -> Result<Vec<Word>, SyntaxError> {
    let mut words = Vec::new();
    let mut line = 1;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '\n' {
            line += 1;
        } else if c == '#' {
            while chars.next_if(|&c| c != '\n').is_some() {}
        } else if c == '"' {
            let start = line;
            let mut word = String::new();
            loop {
                match chars.next() {
                    None => {
                        return Err(SyntaxError {
                            line: start,
                            problem: "a quote is not closed".to_owned(),
                        });
                    }
                    Some('"') => break,
                    Some('\\') if chars.next_if_eq(&'"').is_some() => word.push('"'),
                    // A backslash shields the one behind it, which may stand before a quote.
                    Some('\\') if chars.next_if_eq(&'\\').is_some() => word.push_str("\\\\"),
                    Some(c) => {
                        line += usize::from(c == '\n');
                        word.push(c);
                    }
                }
            }
            words.push(Word {
                line: start,
                text: word,
                quoted: true,
            });
        } else if !c.is_whitespace() {
            let mut word = String::from(c);
            while let Some(c) = chars.next_if(|c| !c.is_whitespace()) {
                word.push(c);
            }
            words.push(Word {
                line,
                text: word,
                quoted: false,
            });
        }
    }
    Ok(words)
}

/// The statements of a text.
pub fn parse(text: &str) -> Result<Vec<Statement>, SyntaxError> {
    // Open blocks: what is in them so far, and the statement that each belongs to.
    let mut open: Vec<(Statement, Vec<Statement>)> = Vec::new();
    let mut current: Vec<Statement> = Vec::new();
    let mut last_line = 0;
    let mut joins = false;
    for word in words(text)? {
        let error = |problem: &str| SyntaxError {
            line: word.line,
            problem: problem.to_owned(),
        };
        if !word.quoted && word.text == "{" {
            let statement = current
                .pop()
                .filter(|statement| statement.block.is_none())
                .ok_or_else(|| error("`{` without a directive in front of it"))?;
            if open.len() == MAX_DEPTH {
                return Err(error("blocks are nested too deeply"));
            }
            open.push((statement, std::mem::take(&mut current)));
            last_line = 0;
            joins = false;
        } else if !word.quoted && word.text == "}" {
            let (mut statement, outer) = open
                .pop()
                .ok_or_else(|| error("`}` without a `{` before it"))?;
            statement.block = Some(std::mem::replace(&mut current, outer));
            current.push(statement);
            last_line = 0;
            joins = false;
        } else {
            // A comma at the end of a line goes on with the keys of a server block.
            let next_joins = open.is_empty() && !word.quoted && word.text.ends_with(',');
            match current.last_mut() {
                Some(statement) if word.line == last_line || joins => {
                    statement.words.push(word.text);
                }
                _ => current.push(Statement {
                    line: word.line,
                    words: vec![word.text],
                    block: None,
                }),
            }
            last_line = word.line;
            joins = next_joins;
        }
    }
    match open.first() {
        Some((statement, _)) => Err(SyntaxError {
            line: statement.line,
            problem: "the block is not closed".to_owned(),
        }),
        None => Ok(current),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_quotes_and_comments() {
        let text = "a:53, # keys\nb {\n  template IN ANY {\n match \"x\\\"\\.y # no comment\"\n }\n  log\n}\n";
        let statements = parse(text).unwrap();
        assert_eq!(statements.len(), 1);
        assert_eq!(statements[0].words, ["a:53,", "b"]);
        let block = statements[0].block.as_ref().unwrap();
        assert_eq!((block[0].line, block[0].word(0)), (3, "template"));
        let inner = &block[0].block.as_ref().unwrap()[0];
        assert_eq!(inner.words, ["match", "x\"\\.y # no comment"]);
        assert_eq!(block[1].words, ["log"]);
    }

    #[test]
    fn what_is_no_corefile() {
        for (text, line) in [("a {\n b\n", 1), ("\n}\n", 2), ("{\n}", 1), ("a\n\"b", 2)] {
            assert_eq!(parse(text).unwrap_err().line, line, "{text:?}");
        }
        assert!(parse(&"a {\n".repeat(100)).is_err());
    }

    #[test]
    fn raw_strings_of_helm() {
        let (text, found) = without_helm("x {{`{{ .Name }}`}} y {{`z");
        assert_eq!((text.as_str(), found), ("x {{ .Name }} y {{`z", true));
    }
}
