//! The tables that map clauses of standards to tests (`docs/conformance.md`): each row names tests that are there, or says why there
//! is none.
//!
//! The last cell of a row holds tests in code marks, each as `PLACE: NAME`. A place is a test binary of a crate (`http/surface`, with
//! the module path before the name; `domain/lib` for tests beside the rules) or a file under `interop/`, whose name is then that of a
//! check. Without a test the cell begins with one of [`REASONS`] and goes on in words.
use super::{Finding, Text};
use crate::rust_text::{Line, scan};

/// Where the tables are.
pub const PAGE: &str = "docs/conformance.md";
/// How the cell of a row without a test begins.
const REASONS: [&str; 2] = ["not applicable because ", "not done: "];
/// The last heading of a table that is checked; other tables of the page are prose.
const COLUMN: &str = "shown by";
/// Folders that crates stand in.
const HOMES: [&str; 3] = ["crates/", "bench/", ""];

/// Every row of every table on the page.
pub fn check(texts: &[Text]) -> Vec<Finding> {
    let Some(page) = texts.iter().find(|text| text.path == PAGE) else { return Vec::new() };
    let rows = rows(&page.text);
    if rows.is_empty() {
        return vec![finding(1, format!("no table has a last column \"{COLUMN}\""), "Write one")];
    }
    let wrong = rows.iter().flat_map(|(line, cells)| row(texts, cells).into_iter().map(move |what| (*line, what)));
    wrong.map(|(line, what)| finding(line, what, "Name a test that runs, or say why there is none")).collect()
}

/// Rows of the tables that are checked, with their lines.
fn rows(page: &str) -> Vec<(usize, Vec<String>)> {
    let mut found = Vec::new();
    let mut inside = false;
    for (index, line) in page.lines().enumerate() {
        let Some(inner) = line.trim().strip_prefix('|').and_then(|rest| rest.strip_suffix('|')) else {
            inside = false;
            continue;
        };
        let cells: Vec<String> = inner.split('|').map(|cell| cell.trim().to_owned()).collect();
        if cells.last().is_some_and(|cell| cell == COLUMN) {
            inside = true;
        } else if inside && !cells.iter().all(|cell| cell.bytes().all(|b| b"-:".contains(&b)) && !cell.is_empty()) {
            found.push((index + 1, cells));
        }
    }
    found
}

/// What is wrong with a row.
fn row(texts: &[Text], cells: &[String]) -> Vec<String> {
    let named = cells.first().map_or("", String::as_str);
    let last = cells.last().map_or("", String::as_str);
    let tests: Vec<&str> = last.split('`').skip(1).step_by(2).filter(|code| code.contains(": ")).collect();
    let reason = REASONS.iter().find_map(|begin| last.strip_prefix(begin)).filter(|why| why.len() >= 10);
    if named.is_empty() {
        return vec!["a row without a clause".into()];
    }
    if tests.is_empty() && reason.is_none() {
        return vec![format!("{named}: there is neither a test nor a reason")];
    }
    tests.iter().filter_map(|test| missing(texts, test).map(|why| format!("{named}: `{test}` {why}"))).collect()
}

/// Why a test that is named is none.
fn missing(texts: &[Text], test: &str) -> Option<&'static str> {
    let (place, name) = test.split_once(": ")?;
    if place.starts_with("interop/") {
        let Some(text) = texts.iter().find(|text| text.path == place) else { return Some("is in no file") };
        return if place.ends_with(".rs") { in_file(text, &[], name) } else { in_script(text, name) };
    }
    let Some((krate, target)) = place.split_once('/') else { return Some("names no test binary") };
    let path: Vec<&str> = name.split("::").collect();
    let roots = HOMES.iter().flat_map(|home| {
        let inside = match target {
            "lib" => ["src/lib.rs".to_owned(), "src/main.rs".to_owned()],
            target => [format!("tests/{target}/main.rs"), format!("tests/{target}.rs")],
        };
        inside.map(|file| format!("{home}{krate}/{file}"))
    });
    let Some(root) = roots.filter_map(|root| texts.iter().find(|text| text.path == root)).next() else {
        return Some("is in no test binary");
    };
    follow(texts, root, &path)
}

/// Goes down the modules to the function.
fn follow(texts: &[Text], file: &Text, path: &[&str]) -> Option<&'static str> {
    let [first, rest @ ..] = path else { return Some("names no function") };
    if !rest.is_empty() {
        let declared = scan(&file.text).iter().any(|line| is_word(&line.code, &format!("mod {first};")));
        if declared {
            let next = places(&file.path, first).into_iter().find_map(|at| texts.iter().find(|text| text.path == at));
            return next.map_or(Some("is in no file"), |next| follow(texts, next, rest));
        }
    }
    let (name, modules) = path.split_last()?;
    in_file(file, modules, name)
}

/// Where the module `name` of the file at `path` may be.
fn places(path: &str, name: &str) -> [String; 2] {
    let (folder, file) = path.rsplit_once('/').unwrap_or(("", path));
    let folder = match file {
        "lib.rs" | "main.rs" | "mod.rs" => folder.to_owned(),
        file => format!("{folder}/{}", file.trim_end_matches(".rs")),
    };
    [format!("{folder}/{name}.rs"), format!("{folder}/{name}/mod.rs")]
}

/// A test of this name in a file, inside these modules of it.
fn in_file(file: &Text, modules: &[&str], name: &str) -> Option<&'static str> {
    let lines = scan(&file.text);
    let mut from = 0;
    for module in modules {
        let found = lines[from..].iter().position(|line| is_word(&line.code, &format!("mod {module} {{")));
        let Some(at) = found else { return Some("is in no module of that name") };
        from += at;
    }
    let at = lines[from..].iter().position(|line| is_word(&line.code, &format!("fn {name}(")));
    let Some(at) = at else { return Some("is not there") };
    let attributes = attributes(&lines[..from + at]);
    if !attributes.iter().any(|one| one.contains("test]") || one.contains("test(")) {
        return Some("is no test");
    }
    attributes.iter().any(|one| one.contains("ignore")).then_some("is ignored")
}

/// The attributes right above, each line one.
fn attributes(above: &[Line]) -> Vec<&str> {
    let lines = above.iter().rev().map(|line| line.code.trim());
    lines.take_while(|code| code.is_empty() || code.starts_with("#[")).filter(|code| !code.is_empty()).collect()
}

/// A check of this name in a script, as the literal that it is called by.
fn in_script(file: &Text, name: &str) -> Option<&'static str> {
    let found = ['\'', '"', '`'].iter().any(|quote| file.text.contains(&format!("check({quote}{name}{quote}")));
    (!found).then_some("is no check of this script")
}

/// Whether the code holds these words, and not as the end of a longer one.
fn is_word(code: &str, words: &str) -> bool {
    let clear = |at: usize| !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
    code.match_indices(words).any(|(at, _)| clear(at))
}

fn finding(line: usize, what: String, todo: &str) -> Finding {
    Finding { file: PAGE.into(), line, what, todo: todo.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(path: &str, text: &str) -> Text {
        Text { path: path.into(), text: text.into() }
    }

    /// What is said of a page with this one row, beside a few files with tests.
    fn said(row: &str) -> Vec<String> {
        let texts = [
            text(
                PAGE,
                &format!(
                    "# A page\n\n| clause | what | shown by |\n|---|---|:--|\n{row}\n\n| a | b |\n|--|--|\n| | |\n"
                ),
            ),
            text("crates/http/tests/surface/main.rs", "mod oauth;\nmod alone;\n// mod gone;\n"),
            text("crates/http/tests/surface/oauth/mod.rs", "mod code;\n"),
            text(
                "crates/http/tests/surface/oauth/code.rs",
                "#[tokio::test]\nasync fn once() {}\n\n/// Why.\n#[test]\n#[ignore = \"slow\"]\nfn later() {}\n\nfn helper() {}\n\n// fn not_there()\n",
            ),
            text(
                "crates/http/tests/surface/alone.rs",
                "#[tokio::test(flavor = \"multi_thread\")]\nasync fn in_a_browser() {}\n",
            ),
            text("crates/http/tests/surface/gone.rs", "#[test]\nfn never_compiled() {}\n"),
            text("crates/domain/src/lib.rs", "pub mod code;\n"),
            text(
                "crates/domain/src/code.rs",
                "fn rule() {}\n#[cfg(test)]\nmod tests {\n    #[test]\n    fn the_rule() {}\n}\n",
            ),
            text("xtask/src/main.rs", "#[test]\nfn own() {}\n"),
            text("interop/node/a.mjs", "await check('signs in', async () => {});\nconst other = 'no check';\n"),
            text("interop/python/b.py", "@check(\"signs in\")\ndef _():\n    pass\n"),
            text("interop/tests/it/c.rs", "#[tokio::test]\nasync fn signs_in() {}\n"),
        ];
        check(&texts).into_iter().map(|finding| finding.what).collect()
    }

    #[test]
    fn tests_that_run_are_found() {
        for test in [
            "http/surface: oauth::code::once",
            "http/surface: alone::in_a_browser",
            "domain/lib: code::tests::the_rule",
            "xtask/lib: own",
            "interop/node/a.mjs: signs in",
            "interop/python/b.py: signs in",
            "interop/tests/it/c.rs: signs_in",
        ] {
            assert_eq!(said(&format!("| §1 | it works | `{test}` |")), [""; 0], "{test}");
        }
        assert_eq!(
            said("| §1 | a | `http/surface: oauth::code::once`, and by `code` words `interop/node/a.mjs: signs in` |"),
            [""; 0]
        );
    }

    #[test]
    fn tests_that_do_not_run_are_told() {
        for (test, why) in [
            ("http/surface: oauth::code::twice", "is not there"),
            ("http/surface: oauth::code::not_there", "is not there"),
            ("http/surface: oauth::code::later", "is ignored"),
            ("http/surface: oauth::code::helper", "is no test"),
            ("http/surface: oauth::other::once", "is in no module of that name"),
            ("http/surface: gone::never_compiled", "is in no module of that name"),
            ("http/other: oauth::code::once", "is in no test binary"),
            ("domain/lib: code::the_rule::tests", "is in no module of that name"),
            ("domain/lib: code::tests::rule", "is not there"),
            ("nowhere: once", "names no test binary"),
            ("interop/node/gone.mjs: signs in", "is in no file"),
            ("interop/node/a.mjs: no check", "is no check of this script"),
            ("interop/python/b.py: signs out", "is no check of this script"),
            ("interop/tests/it/c.rs: signs_out", "is not there"),
        ] {
            assert_eq!(said(&format!("| §1 | it works | `{test}` |")), [format!("§1: `{test}` {why}")]);
        }
    }

    #[test]
    fn a_row_has_a_test_or_a_reason() {
        for good in ["not applicable because implicit grants are not offered", "not done: nobody asked for it yet"] {
            assert_eq!(said(&format!("| §1 | it works | {good} |")), [""; 0], "{good}");
        }
        for empty in
            ["", "—", "yes", "`oauth::code::once`", "not applicable", "not applicable because no", "not done: "]
        {
            assert_eq!(
                said(&format!("| §1 | it works | {empty} |")),
                ["§1: there is neither a test nor a reason"],
                "{empty}"
            );
        }
        assert_eq!(said("| | it works | `http/surface: oauth::code::once` |"), ["a row without a clause"]);
        // One test that is there does not hide another one that is not; nor does a reason.
        let two = "not done: the rest. `http/surface: oauth::code::once` `http/surface: oauth::code::twice`";
        assert_eq!(
            said(&format!("| §1 | it works | {two} |")),
            ["§1: `http/surface: oauth::code::twice` is not there"]
        );
        assert_eq!(check(&[text(PAGE, "# Nothing\n")]).len(), 1);
        assert!(check(&[]).is_empty(), "that the page is there is another check's affair");
    }
}
