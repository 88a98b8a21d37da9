//! What may not stand in the sources: SQL outside the stores, clocks and chance outside two files, long files, things put off.
use super::{Finding, Text};
use crate::rust_text::{Line, scan};

/// Longest source file, in lines.
const MAX_LINES: usize = 800;

/// Where the real clock and the real randomness are made.
const REAL: &[&str] = &["crates/app/src/real.rs", "crates/tower/src/real.rs"];

/// Ways to a clock or to chance. aws-lc-rs' `SystemRandom` is not among them: a signature cannot be made without naming it.
const CHANCE: &[&str] = &[
    "SystemTime::now",
    "Instant::now",
    "Utc::now",
    "Timestamp::now",
    "clock_gettime",
    "getrandom::",
    "rand::fill",
    "rand::random",
    "thread_rng",
    "OsRng",
    "RandomState",
    "allow(clippy::disallowed_methods",
];

/// Looks through every Rust file.
pub fn check(texts: &[Text]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for text in texts.iter().filter(|text| text.path.ends_with(".rs")) {
        let lines = scan(&text.text);
        let path = text.path.as_str();
        findings.extend(length(path, text.text.lines().count()));
        for (index, line) in lines.iter().enumerate() {
            let mut found = put_off(line);
            if product(path) && !line.test {
                found.extend(sql(path, line));
                found.extend(chance(path, line));
            }
            let found =
                found.into_iter().map(|(what, todo)| Finding { file: path.into(), line: index + 1, what, todo });
            findings.extend(found);
        }
    }
    findings
}

type Found = (String, String);

/// The product itself: not its tests, not what only tests and measurements use.
fn product(path: &str) -> bool {
    let test = path.contains("/tests/") || path.ends_with("/tests.rs") || path.contains("/benches/");
    path.starts_with("crates/") && !path.starts_with("crates/testkit/") && !test
}

fn length(path: &str, lines: usize) -> Option<Finding> {
    (lines > MAX_LINES).then(|| Finding {
        file: path.into(),
        line: MAX_LINES,
        what: format!("the file has {lines} lines, {MAX_LINES} is the most"),
        todo: "Cut it where its subject changes".into(),
    })
}

fn sql(path: &str, line: &Line) -> Vec<Found> {
    if path.starts_with("crates/store-") {
        return Vec::new();
    }
    let statements = line.strings.iter().filter(|text| is_sql(text)).map(|text| {
        let shown: String = text.split_whitespace().take(4).collect::<Vec<_>>().join(" ");
        (
            format!("SQL (\"{shown} …\") outside the store crates"),
            "Move it behind the Store trait (DESIGN §5)".to_owned(),
        )
    });
    statements.collect()
}

/// Whether a literal is a statement of SQL: it begins as one and goes on as one. Prose begins differently.
fn is_sql(text: &str) -> bool {
    let words: Vec<&str> = text.split_whitespace().collect();
    let Some(first) = words.first() else { return false };
    if !(first.chars().all(char::is_uppercase) || first.chars().all(char::is_lowercase)) {
        return false;
    }
    let first = first.to_ascii_lowercase();
    let second = words.get(1).map_or(String::new(), |word| word.to_ascii_lowercase());
    let later = |wanted: &str| words.iter().any(|word| word.eq_ignore_ascii_case(wanted));
    match first.as_str() {
        "select" => later("from") || words.len() > 1 && words[0] == "SELECT",
        "insert" | "replace" => second == "into" || second == "or",
        "update" => later("set"),
        "delete" => second == "from",
        "create" | "drop" | "alter" => ["table", "index", "unique", "trigger", "view"].contains(&second.as_str()),
        "with" => later("as") && later("select"),
        "begin" => ["immediate", "exclusive", "deferred"].contains(&second.as_str()),
        "pragma" => words.len() > 1,
        _ => false,
    }
}

fn chance(path: &str, line: &Line) -> Vec<Found> {
    if REAL.contains(&path) {
        return Vec::new();
    }
    let calls = CHANCE.iter().filter(|call| line.code.contains(**call)).map(|call| {
        let todo =
            format!("Take the time or the chance as an argument; the real ones are made in {}", REAL.join(" and "));
        (format!("`{call}` in a file that may not know it"), todo)
    });
    calls.collect()
}

fn put_off(line: &Line) -> Vec<Found> {
    let code = ["#[ignore", "todo!(", "unimplemented!("].iter().filter(|mark| line.code.contains(**mark));
    let comment = ["FIXME", "TODO", "XXX"].iter().filter(|mark| line.comment.contains(**mark));
    let found = code.chain(comment).map(|mark| {
        (format!("`{mark}` puts something off"), "Do it now, or write an issue and remove the mark".to_owned())
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<(usize, String)> {
        let texts = [Text { path: path.into(), text: text.into() }];
        check(&texts).into_iter().map(|finding| (finding.line, finding.what)).collect()
    }

    #[test]
    fn sql_belongs_to_the_stores() {
        let text = "\nlet q = \"SELECT id FROM account\";\nlet p = \"Select one from the list\"; // DELETE FROM x\n";
        let said = found("crates/app/src/x.rs", text);
        assert!(said.len() == 1 && said[0].0 == 2, "{said:?}");
        assert_eq!(found("crates/store-sqlite/src/x.rs", text), []);
        assert_eq!(found("crates/app/tests/it/x.rs", text), []);
        assert_eq!(found("crates/app/src/x.rs", &format!("#[cfg(test)]\nmod tests {{{text}}}\n")), []);
    }

    #[test]
    fn each_kind_of_statement_is_known_and_prose_is_not() {
        for sql in [
            "INSERT INTO a VALUES (1)",
            "update a set b = 1",
            "DELETE FROM a",
            "CREATE TABLE a (b)",
            "PRAGMA user_version",
            "BEGIN IMMEDIATE",
            "with a as (select 1) select * from a",
            "SELECT 1",
        ] {
            assert!(is_sql(sql), "{sql}");
        }
        for prose in
            ["select", "update failed", "Delete from all devices", "begin", "with care", "delete", "insert coin", ""]
        {
            assert!(!is_sql(prose), "{prose}");
        }
    }

    #[test]
    fn clocks_and_chance_have_their_two_files() {
        let text = "let now = std::time::SystemTime::now();\n";
        assert_eq!(found("crates/http/src/x.rs", text).len(), 1);
        assert_eq!(found("crates/app/src/real.rs", text), []);
        assert_eq!(found("crates/testkit/src/lib.rs", text), []);
        assert_eq!(found("crates/http/src/x.rs", "// SystemTime::now would be wrong here\n"), []);
        assert_eq!(found("crates/sim/src/x.rs", "getrandom::fill(&mut b);\n").len(), 1);
    }

    #[test]
    fn nothing_is_put_off_and_files_stay_short() {
        assert_eq!(found("crates/http/tests/it/a.rs", "#[ignore]\nfn a() { todo!() } // FIXME: b\n").len(), 3);
        assert_eq!(found("crates/http/src/a.rs", &"a();\n".repeat(MAX_LINES)), []);
        assert_eq!(found("crates/http/src/a.rs", &"a();\n".repeat(MAX_LINES + 1)).len(), 1);
    }
}
