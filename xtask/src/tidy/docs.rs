//! Links between the documents, and what no document may be without.
use super::{Finding, Text};
use std::path::Path;

/// Documents that the repository always has.
const NEEDED: &[&str] = &["README.md", "ARCHITECTURE.md", "CHANGELOG.md", super::clauses::PAGE];

/// Every link to a file of the repository leads to one, and its fragment to a heading.
pub fn check(root: &Path, texts: &[Text]) -> Vec<Finding> {
    let mut findings: Vec<Finding> = NEEDED
        .iter()
        .filter(|path| !texts.iter().any(|text| text.path == **path))
        .map(|path| finding(path, 1, "the document is missing".into(), "Write it".into()))
        .collect();
    for text in texts.iter().filter(|text| text.path.ends_with(".md")) {
        for (line, target) in links(&text.text) {
            findings.extend(
                broken(root, texts, &text.path, &target)
                    .map(|what| finding(&text.path, line, what, "Correct the link, or write what it leads to".into())),
            );
        }
    }
    findings
}

/// `](target)` outside fences and code, with line numbers.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut fenced = false;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        let prose: String = line.split('`').step_by(2).collect::<Vec<_>>().join("``");
        let targets = prose.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next());
        found.extend(targets.map(|target| (index + 1, target.to_owned())));
    }
    found
}

/// What is wrong with a link from the document at `from`.
fn broken(root: &Path, texts: &[Text], from: &str, target: &str) -> Option<String> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (file, fragment) = target.split_once('#').unwrap_or((target, ""));
    let folder = Path::new(from).parent().unwrap_or(Path::new(""));
    let path = if file.is_empty() { Some(from.to_owned()) } else { normal(&folder.join(file)) };
    let Some(path) = path else { return Some(format!("the link to `{target}` leads out of the repository")) };
    if !root.join(&path).exists() && !texts.iter().any(|text| text.path == path) {
        return Some(format!("the link to `{target}` leads to no file"));
    }
    let page = texts.iter().find(|text| text.path == path)?;
    let known =
        fragment.is_empty() || !path.ends_with(".md") || headings(&page.text).any(|heading| heading == fragment);
    (!known).then(|| format!("the link to `{target}` leads to no heading of {path}"))
}

/// `docs/a/../b.md` → `docs/b.md`; `None` when it leaves the repository.
fn normal(path: &Path) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.to_str()?.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// Headings as fragments: lower case, spaces as hyphens, no other punctuation.
fn headings(text: &str) -> impl Iterator<Item = String> {
    let lines = text.lines().filter(|line| line.starts_with('#'));
    lines.map(|line| {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let kept = title.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    })
}

fn finding(file: &str, line: usize, what: String, todo: String) -> Finding {
    Finding { file: file.into(), line, what, todo }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_somewhere() {
        let page = |path: &str, text: &str| Text { path: path.into(), text: text.into() };
        let texts = [
            page(
                "README.md",
                "[a](docs/a.md) [b](docs/b.md#two-words) `[c](gone.md)`\n```\n[d](gone.md)\n```\n[w](https://x.y/)\n",
            ),
            page("docs/a.md", "[up](../README.md) [gone](gone.md) [none](b.md#none) [out](../../x.md)\n"),
            page("docs/b.md", "# Two words!\n"),
            page("ARCHITECTURE.md", ""),
            page("CHANGELOG.md", ""),
            page("docs/conformance.md", ""),
        ];
        let said: Vec<String> = check(Path::new("/nonexistent"), &texts).into_iter().map(|f| f.what).collect();
        assert_eq!(
            said,
            [
                "the link to `gone.md` leads to no file",
                "the link to `b.md#none` leads to no heading of docs/b.md",
                "the link to `../../x.md` leads out of the repository"
            ]
        );
        assert_eq!(check(Path::new("/nonexistent"), &[]).len(), 4);
    }
}
