//! Writing to the terminal. A reader that went away (`portcullis accounts list | head -1`) is no error.
use std::io::{IsTerminal as _, Write as _};

/// A line on standard output.
pub fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// An error on standard error, each line marked.
pub fn complain(text: &str) {
    let mut err = std::io::stderr().lock();
    for line in text.lines() {
        let _ = writeln!(err, "portcullis: {line}");
    }
}

/// JSON on standard output, one line.
pub fn json(value: &serde_json::Value) {
    line(&value.to_string());
}

/// Colours, when people look on.
#[derive(Debug, Clone, Copy)]
pub struct Paint(bool);

impl Paint {
    /// For standard output: only on a terminal, and not when `NO_COLOR` is set.
    pub fn stdout() -> Self {
        Self(std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()))
    }
    fn wrap(self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
    /// Headings.
    pub fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }
    /// What passed.
    pub fn green(self, text: &str) -> String {
        self.wrap("32", text)
    }
    /// What did not.
    pub fn red(self, text: &str) -> String {
        self.wrap("31", text)
    }
    /// What is beside the point.
    pub fn dim(self, text: &str) -> String {
        self.wrap("2", text)
    }
}

/// Text from a server as it may be shown on a terminal: control characters cannot move the cursor or hide what stands there.
pub fn harmless(text: &str) -> String {
    let escape = |c: char| if c.is_control() { c.escape_default().collect() } else { String::from(c) };
    text.chars().map(escape).collect()
}
