//! From words to server blocks: keys, directives, snippets, and what `import` brings in. No plugin is known here.

use std::collections::HashMap;

use crate::lexer::Token;

/// Deepest nesting of blocks.
const MAX_DEPTH: usize = 8;
/// Most snippets and documents that are put in the place of an `import`.
const MAX_IMPORTS: usize = 1_000;
/// Most words after that.
const MAX_TOKENS: usize = 1 << 20;

/// The position of a word: the document, and the line in it from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    pub document: usize,
    pub line: usize,
}

/// A line of words and the block that may follow it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directive {
    pub place: Place,
    /// Never empty.
    pub words: Vec<String>,
    pub block: Option<Vec<Directive>>,
}

impl Directive {
    /// A word, or "" where there is none.
    pub fn word(&self, index: usize) -> &str {
        self.words.get(index).map_or("", String::as_str)
    }

    /// All words of the block in their order, braces left out.
    pub fn block_words(&self) -> Vec<&str> {
        let mut words = Vec::new();
        for inner in self.block.iter().flatten() {
            words.extend(inner.words.iter().map(String::as_str));
            words.extend(inner.block_words());
        }
        words
    }
}

/// A server block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    pub place: Place,
    pub keys: Vec<String>,
    pub directives: Vec<Directive>,
}

/// An `import` of something that is not at hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    pub place: Place,
    pub what: String,
}

/// Why a text is not a Corefile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyntaxError {
    pub place: Place,
    pub problem: String,
}

/// What a Corefile consists of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    pub blocks: Vec<Block>,
    pub missing: Vec<Missing>,
    /// Snippets that nothing imports.
    pub unused: Vec<Directive>,
}

/// Files that an `import` may name: each with the words in it.
pub type Files<'a> = &'a mut dyn FnMut(&str) -> Option<Vec<Token>>;

/// Reads the words of a Corefile. With `bare`, they are directives without a block around them.
pub fn parse(tokens: Vec<Token>, bare: bool, files: Files<'_>) -> Result<Parsed, SyntaxError> {
    let mut parser = Parser {
        tokens,
        cursor: 0,
        snippets: HashMap::new(),
        imports: 0,
        files,
        parsed: Parsed::default(),
    };
    if bare {
        parser.bare()?;
    } else {
        while parser.cursor < parser.tokens.len() {
            parser.block()?;
        }
    }
    let mut unused: Vec<Directive> = parser
        .snippets
        .into_values()
        .filter(|snippet| !snippet.used)
        .filter_map(|snippet| snippet.directive)
        .collect();
    unused.sort_by_key(|snippet| snippet.place);
    parser.parsed.unused = unused;
    Ok(parser.parsed)
}

struct Snippet {
    tokens: Vec<Token>,
    used: bool,
    directive: Option<Directive>,
}

struct Parser<'a> {
    tokens: Vec<Token>,
    cursor: usize,
    snippets: HashMap<String, Snippet>,
    imports: usize,
    files: Files<'a>,
    parsed: Parsed,
}

impl Parser<'_> {
    fn peek(&self) -> Option<&str> {
        self.tokens
            .get(self.cursor)
            .map(|token| token.text.as_str())
    }

    fn place(&self) -> Place {
        let token = self.tokens.get(self.cursor).or(self.tokens.last());
        token.map_or_else(Place::default, |token| Place {
            document: token.document,
            line: token.line,
        })
    }

    /// Whether the word at the cursor is the first one of a line.
    fn starts_line(&self) -> bool {
        let before = self
            .cursor
            .checked_sub(1)
            .and_then(|at| self.tokens.get(at));
        match (before, self.tokens.get(self.cursor)) {
            (Some(before), Some(token)) => before.ends_line(token),
            _ => true,
        }
    }

    fn error<T>(&self, place: Place, problem: impl Into<String>) -> Result<T, SyntaxError> {
        Err(SyntaxError {
            place,
            problem: problem.into(),
        })
    }

    /// A server block or the definition of a snippet.
    fn block(&mut self) -> Result<(), SyntaxError> {
        let mut place = self.place();
        let mut keys: Vec<String> = Vec::new();
        let mut expects_key = false;
        let mut first = true;
        while let Some(word) = self.peek() {
            if word == "{" || (!first && !expects_key && self.starts_line()) {
                break;
            }
            if word == "}" {
                return self.error(self.place(), "`}` without a `{` before it");
            }
            if word == "import" && (first || self.starts_line()) {
                self.import()?;
                if keys.is_empty() {
                    place = self.place();
                }
                continue;
            }
            first = false;
            let key = word.strip_suffix(',');
            expects_key = key.is_some();
            let key = key.unwrap_or(word).to_owned();
            if !key.is_empty() {
                keys.push(key);
            }
            self.cursor += 1;
        }
        if keys.is_empty() {
            return match self.peek() {
                Some(_) => self.error(place, "`{` without a key in front of it"),
                None => Ok(()),
            };
        }
        let name = match &keys[..] {
            [key] => key
                .strip_prefix('(')
                .and_then(|rest| rest.strip_suffix(')')),
            _ => None,
        };
        if let Some(name) = name {
            return self.snippet(place, name.to_owned());
        }
        let directives = if self.peek() == Some("{") {
            self.cursor += 1;
            self.directives(place, 1)?
        } else {
            // A file of one server needs no braces.
            self.directives(place, 0)?
        };
        self.parsed.blocks.push(Block {
            place,
            keys,
            directives,
        });
        Ok(())
    }

    fn snippet(&mut self, place: Place, name: String) -> Result<(), SyntaxError> {
        if self.peek() != Some("{") {
            return self.error(place, format!("the snippet ({name}) has no block"));
        }
        self.cursor += 1;
        let start = self.cursor;
        let mut depth = 1;
        while let Some(word) = self.peek() {
            match word {
                "{" => depth += 1,
                "}" => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                break;
            }
            self.cursor += 1;
        }
        if depth > 0 {
            return self.error(place, "the block is not closed");
        }
        let tokens = self.tokens[start..self.cursor].to_vec();
        self.cursor += 1;
        let mut alone = Parser {
            tokens: tokens.clone(),
            cursor: 0,
            snippets: HashMap::new(),
            imports: MAX_IMPORTS,
            files: &mut |_| None,
            parsed: Parsed::default(),
        };
        let block = alone.directives(place, 0).ok();
        let snippet = Snippet {
            tokens,
            used: false,
            directive: block.map(|block| Directive {
                place,
                words: vec![format!("({name})")],
                block: Some(block),
            }),
        };
        if self.snippets.insert(name.clone(), snippet).is_some() {
            return self.error(place, format!("the snippet ({name}) is defined twice"));
        }
        Ok(())
    }

    /// Puts what is imported in the place of the `import` at the cursor.
    fn import(&mut self) -> Result<(), SyntaxError> {
        let place = self.place();
        let start = self.cursor;
        self.cursor += 1;
        if self.cursor >= self.tokens.len() || self.starts_line() {
            return self.error(place, "`import` without a name");
        }
        let name = self.tokens[self.cursor].text.clone();
        self.cursor += 1;
        if self.cursor < self.tokens.len() && !self.starts_line() && self.peek() != Some("}") {
            return self.error(place, "`import` takes one name");
        }
        let imported = match self.snippets.get_mut(&name) {
            Some(snippet) => {
                snippet.used = true;
                Some(snippet.tokens.clone())
            }
            None => (self.files)(&name),
        };
        let imported = imported.unwrap_or_else(|| {
            self.parsed.missing.push(Missing { place, what: name });
            Vec::new()
        });
        self.imports += 1;
        if self.imports > MAX_IMPORTS || self.tokens.len() + imported.len() > MAX_TOKENS {
            return self.error(place, "too many snippets are imported one in another");
        }
        self.tokens.splice(start..self.cursor, imported);
        self.cursor = start;
        Ok(())
    }

    /// The directives up to the end of a block, or at depth 0 up to the end of the text.
    fn directives(&mut self, opened: Place, depth: usize) -> Result<Vec<Directive>, SyntaxError> {
        if depth > MAX_DEPTH {
            return self.error(opened, "blocks are nested too deeply");
        }
        let mut directives = Vec::new();
        loop {
            let place = self.place();
            match self.peek() {
                None if depth == 0 => return Ok(directives),
                None => return self.error(opened, "the block is not closed"),
                Some("}") if depth == 0 => return self.error(place, "`}` without a `{` before it"),
                Some("}") => {
                    self.cursor += 1;
                    return Ok(directives);
                }
                Some("{") => return self.error(place, "`{` without a directive in front of it"),
                Some("import") => self.import()?,
                Some(_) => directives.push(self.directive(depth)?),
            }
        }
    }

    fn directive(&mut self, depth: usize) -> Result<Directive, SyntaxError> {
        let place = self.place();
        let mut words = Vec::new();
        while let Some(word) = self.peek() {
            if !words.is_empty() && self.starts_line() {
                break;
            }
            if word == "{" {
                self.cursor += 1;
                let block = self.directives(place, depth.max(1) + 1)?;
                if self.cursor < self.tokens.len() && !self.starts_line() {
                    return self.error(
                        self.place(),
                        "a `}` that ends a directive must be alone on its line",
                    );
                }
                return Ok(Directive {
                    place,
                    words,
                    block: Some(block),
                });
            }
            if word == "}" {
                return self.error(self.place(), "`}` is not on a line of its own");
            }
            words.push(word.to_owned());
            self.cursor += 1;
        }
        Ok(Directive {
            place,
            words,
            block: None,
        })
    }

    /// Directives of a block that is somewhere else; whole server blocks may be among them.
    fn bare(&mut self) -> Result<(), SyntaxError> {
        let place = self.place();
        let mut directives = Vec::new();
        while let Some(word) = self.peek() {
            let place = self.place();
            match word {
                "}" => return self.error(place, "`}` without a `{` before it"),
                "{" => return self.error(place, "`{` without a directive in front of it"),
                "import" => self.import()?,
                key if key.contains([':', '.', ',', '(']) => self.block()?,
                _ => directives.push(self.directive(0)?),
            }
        }
        let block = Block {
            place,
            keys: vec![".".to_owned()],
            directives,
        };
        self.parsed.blocks.insert(0, block);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lexer::tokens;

    fn read(text: &str) -> Result<Parsed, SyntaxError> {
        parse(tokens(text, 0).unwrap(), false, &mut |_| None)
    }

    fn shape(text: &str) -> Vec<(Vec<String>, Vec<String>)> {
        read(text)
            .unwrap()
            .blocks
            .into_iter()
            .map(|block| {
                let words = block.directives.iter().map(|d| d.words.join(" "));
                (block.keys.clone(), words.collect())
            })
            .collect()
    }

    #[test]
    fn keys_and_directives() {
        let blocks = shape("a:53, # keys\nb {\n log\n cache 30\n}\nc\n{\n errors\n}");
        assert_eq!(blocks[0].0, ["a:53", "b"]);
        assert_eq!(blocks[0].1, ["log", "cache 30"]);
        assert_eq!(blocks[1].0, ["c"]);
    }

    #[test]
    fn one_server_needs_no_braces() {
        let blocks = shape("a b\nlog\ntemplate IN ANY {\n rcode NXDOMAIN\n}\ncache");
        assert_eq!(blocks.len(), 1);
        assert_eq!(blocks[0].1, ["log", "template IN ANY", "cache"]);
    }

    #[test]
    fn snippets_are_expanded_wherever_they_are_imported() {
        let text = "(a) {\n log\n}\n(b) {\n import a\n cache\n}\n. {\n errors\n import b\n x {\n  import a\n }\n}";
        let parsed = read(text).unwrap();
        let block = &parsed.blocks[0];
        let words: Vec<&str> = block.directives.iter().map(|d| d.word(0)).collect();
        assert_eq!(words, ["errors", "log", "cache", "x"]);
        assert_eq!(block.directives[1].place.line, 2);
        assert_eq!(block.directives[3].block_words(), ["log"]);
        assert!(parsed.missing.is_empty() && parsed.unused.is_empty());
    }

    #[test]
    fn missing_and_unused_captures() {
        let parsed =
            read("(a) {\n log\n}\nimport conf.d/*\n. {\n import later\n}\n(later) {\n x\n}")
                .unwrap();
        let missing: Vec<_> = parsed
            .missing
            .iter()
            .map(|m| (m.place.line, &m.what[..]))
            .collect();
        assert_eq!(missing, [(4, "conf.d/*"), (6, "later")]);
        let unused: Vec<_> = parsed.unused.iter().map(|d| d.word(0)).collect();
        assert_eq!(unused, ["(a)", "(later)"]);
    }

    #[test]
    fn files_that_are_not_corefiles() {
        for (text, line) in [
            ("a {\n b\n", 1),
            ("{\n}", 1),
            ("a {\n b {\n  c }\n}", 3),
            ("a {\n b\n {\n }\n}", 3),
            ("a {\n import\n}", 2),
            ("(a) {\n import a\n}\n. {\n import a\n}", 2),
            ("(a) {\n}\n(a) {\n}", 3),
            ("a {\n}\n}", 3),
        ] {
            let problem = read(text).map(|_| ()).unwrap_err();
            assert_eq!(problem.place.line, line, "{text:?}: {problem:?}");
        }
        assert!(read(&"a {\n".repeat(100)).is_err());
    }
}
