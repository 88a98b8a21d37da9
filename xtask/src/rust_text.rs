//! A Rust file taken apart into code, string literals and comments, so that a check can look at one without the others.
//!
//! This is a scanner, not a parser: it knows comments (nested), string, raw string, byte and character literals and
//! lifetimes, and which lines stand in an item under `#[cfg(test)]`. That is all that the checks need.

/// One line.
#[derive(Debug, Default, Clone)]
pub struct Line {
    /// The code, each literal as an empty one and without comments.
    pub code: String,
    /// Contents of the string literals that begin on this line, as written.
    pub strings: Vec<String>,
    /// Text of comments.
    pub comment: String,
    /// Only compiled for tests.
    pub test: bool,
}

/// Takes a file apart. Line 1 is at index 0.
pub fn scan(text: &str) -> Vec<Line> {
    let mut scanner = Scanner { rest: text, lines: vec![Line::default()] };
    while scanner.step() {}
    mark_tests(&mut scanner.lines);
    scanner.lines
}

struct Scanner<'a> {
    rest: &'a str,
    lines: Vec<Line>,
}

impl<'a> Scanner<'a> {
    fn line(&mut self) -> &mut Line {
        if self.lines.is_empty() {
            self.lines.push(Line::default());
        }
        let last = self.lines.len() - 1;
        &mut self.lines[last]
    }

    fn take(&mut self, bytes: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(bytes);
        self.rest = rest;
        taken
    }

    /// One piece: a comment, a literal, a word or a character. False at the end.
    fn step(&mut self) -> bool {
        let Some(first) = self.rest.chars().next() else { return false };
        if self.rest.starts_with("//") {
            let end = self.rest.find('\n').unwrap_or(self.rest.len());
            let comment = self.take(end);
            self.line().comment.push_str(comment);
        } else if self.rest.starts_with("/*") {
            self.block_comment();
        } else if let Some(opening) = opening(self.rest) {
            self.take(opening.length);
            self.string(&opening);
        } else if first == '\'' {
            let length = character(self.rest);
            self.take(length);
            self.line().code.push_str(if length > 1 { "' '" } else { "'" });
        } else if first == '\n' {
            self.take(1);
            self.lines.push(Line::default());
        } else {
            let word = self.rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(self.rest.len());
            let piece = self.take(word.max(first.len_utf8()));
            self.line().code.push_str(piece);
        }
        true
    }

    fn block_comment(&mut self) {
        let mut depth = 0_usize;
        while let Some(first) = self.rest.chars().next() {
            if self.rest.starts_with("/*") {
                depth += 1;
                self.take(2);
            } else if self.rest.starts_with("*/") {
                depth -= 1;
                self.take(2);
                if depth == 0 {
                    return;
                }
            } else if first == '\n' {
                self.take(1);
                self.lines.push(Line::default());
            } else {
                let piece = self.take(first.len_utf8());
                self.line().comment.push_str(piece);
            }
        }
    }

    /// From after the opening quote.
    fn string(&mut self, opening: &Opening) {
        let begun = self.lines.len() - 1;
        self.line().code.push_str("\"\"");
        let mut content = String::new();
        while let Some(first) = self.rest.chars().next() {
            if self.rest.starts_with(&opening.closing) {
                self.take(opening.closing.len());
                break;
            }
            let length = if !opening.raw && first == '\\' {
                1 + self.rest.chars().nth(1).map_or(0, char::len_utf8)
            } else {
                first.len_utf8()
            };
            let piece = self.take(length);
            for _ in piece.matches('\n') {
                self.lines.push(Line::default());
            }
            content.push_str(piece);
        }
        self.lines[begun].strings.push(content);
    }
}

/// How a string literal begins.
struct Opening {
    /// Bytes to its first character.
    length: usize,
    /// Whether a backslash is just a backslash.
    raw: bool,
    /// What ends it: a quote and as many hashes.
    closing: String,
}

/// The string literal that `rest` begins with, when it does.
fn opening(rest: &str) -> Option<Opening> {
    let prefix = rest.find(|c: char| !matches!(c, 'b' | 'c' | 'r')).filter(|length| *length <= 2)?;
    let raw = rest[..prefix].ends_with('r');
    let after = &rest[prefix..];
    let hashes = if raw { after.len() - after.trim_start_matches('#').len() } else { 0 };
    after[hashes..].starts_with('"').then(|| Opening {
        length: prefix + hashes + 1,
        raw,
        closing: format!("\"{}", "#".repeat(hashes)),
    })
}

/// Length of a character literal, or 1 for the quote of a lifetime.
fn character(rest: &str) -> usize {
    let mut inside = rest[1..].char_indices();
    match inside.next() {
        Some((_, '\\')) => rest[3..].find('\'').map_or(1, |end| end + 4),
        Some((_, first)) if rest[1 + first.len_utf8()..].starts_with('\'') => 2 + first.len_utf8(),
        _ => 1,
    }
}

/// Marks the items that stand under `#[cfg(test)]`, to the brace that closes them.
fn mark_tests(lines: &mut [Line]) {
    if lines.iter().any(|line| line.code.trim() == "#![cfg(test)]") {
        lines.iter_mut().for_each(|line| line.test = true);
        return;
    }
    let mut at = 0;
    while at < lines.len() {
        if !lines[at].code.contains("#[cfg(test)]") {
            at += 1;
            continue;
        }
        let mut depth = 0_i32;
        let mut opened = false;
        while at < lines.len() {
            lines[at].test = true;
            let code = lines[at].code.clone();
            for c in code.chars() {
                depth += i32::from(c == '{') - i32::from(c == '}');
                opened |= c == '{';
            }
            let semicolon = !opened && code.trim_end().ends_with(';');
            at += 1;
            if (opened && depth <= 0) || semicolon {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::scan;

    #[test]
    fn takes_code_strings_and_comments_apart() {
        let lines = scan(concat!(
            "let a = \"SELECT // not a comment \\\" x\"; // TODO: y\n",
            "let b = r#\"raw \" text\"#; /* block /* nested */ Instant::now */ call();\n",
            "fn f<'a>(x: &'a str) -> char { '\"' }\n",
            "let c = b\"two\nlines\"; after()\n",
            "let raw = bar(r\"\\\"); done('\\'', '\\u{1F600}');\n",
        ));
        assert_eq!(lines[0].strings, ["SELECT // not a comment \\\" x"]);
        assert_eq!(lines[0].code.trim_end(), "let a = \"\";");
        assert_eq!(lines[0].comment, "// TODO: y");
        assert_eq!(lines[1].strings, ["raw \" text"]);
        assert!(!lines[1].code.contains("Instant") && lines[1].code.contains("call()"));
        assert_eq!(lines[2].code, "fn f<'a>(x: &'a str) -> char { ' ' }");
        assert_eq!(lines[3].strings, ["two\nlines"]);
        assert!(lines[4].code.contains("after()"));
        assert_eq!(lines[5].strings, ["\\"]);
        assert_eq!(lines[5].code, "let raw = bar(\"\"); done(' ', ' ');");
    }

    #[test]
    fn knows_what_is_only_for_tests() {
        let lines = scan("a();\n#[cfg(test)]\nmod tests {\n  fn b() { x }\n}\nc();\n#[cfg(test)]\nmod more;\nd();\n");
        let test: Vec<bool> = lines.iter().map(|line| line.test).collect();
        assert_eq!(test, [false, true, true, true, true, false, true, true, false, false]);
    }
}
