//! `cargo xtask bench flames`: where the server's processor time goes while it refreshes, while people sign in and while tokens
//! are asked about, as pictures in
//! `docs/performance/`. By the kernel's `perf`, from outside: the server is the one that is measured.
use super::asked::{Ours, emails, refreshes, sign_ins};
use super::peers::TOKENS;
use super::{Bench, CALLERS, introspect, path};
use crate::rings::found_or_installed;
use crate::{Failure, process, workspace};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// Samples per second; an odd number, so that nothing of the server's own beats with it.
const PER_S: &str = "499";
/// How long is sampled.
const SECONDS: u32 = 6;
/// Bytes of the stack that are kept with each sample: the way up is found in them, for the program has no frame pointers.
const STACK: &str = "dwarf,16384";

const WIDTH: f64 = 1200.0;
const ROW: f64 = 16.0;
/// Of all samples, less than this share is not drawn.
const LEAST: f64 = 0.004;
/// About the width of a letter.
const LETTER: f64 = 6.6;
/// No name in a picture is longer.
const LONGEST: usize = 120;

/// `bench flames`.
pub fn command() -> Result<(), Failure> {
    let workspace = workspace::load()?;
    found_or_installed(&["perf"], "linux-perf", "install perf (Debian's package `linux-perf`)")?;
    let bench = Bench::built(&workspace)?;
    let ours = Ours::start(&bench)?;
    let sign_in = sign_ins("/v1/sessions", "identifier", CALLERS, &emails(&bench, CALLERS)?);
    let folder = workspace.root.join("docs/performance");
    std::fs::create_dir_all(&folder)?;
    let known = introspect::minted(&bench, &ours, "known", TOKENS, 1.0)?;
    let introspecting = introspect::asked(&introspect::client(&ours)?, &known);
    let all = [("refresh", refreshes(&ours.tokens)), ("sign-in", sign_in), ("introspection", introspecting)];
    for (name, asked) in all {
        bench.ask(&ours.running, &asked, 1.0)?; // warms
        let mut load = bench.asking(&ours.running, &asked, f64::from(SECONDS) + 1.0)?.stdout(Stdio::null()).spawn()?;
        let data = bench.folder.join("perf.data");
        let mut record = Command::new("perf");
        record.args(["record", "-q", "-F", PER_S, "--call-graph", STACK, "-p", &ours.running.child.id().to_string()]);
        record.args(["-o", &path(&data), "--", "sleep", &SECONDS.to_string()]);
        process::run(&mut record).map_err(|_| {
            Failure::Missing("`perf record` failed: the kernel must allow it (kernel.perf_event_paranoid)".into())
        })?;
        load.wait()?;
        let text = process::output(Command::new("perf").args([
            "script",
            "--no-inline",
            "-F",
            "comm,ip,sym,dso",
            "-i",
            &path(&data),
        ]))?;
        let root = fold(&text);
        let file = folder.join(format!("{name}.svg"));
        std::fs::write(&file, draw(&root, &format!("{name}: {} samples of the server", root.count)))?;
        println!("{}: {} samples", shown(&file, &workspace.root), root.count);
    }
    Ok(())
}

fn shown(file: &Path, root: &Path) -> String {
    file.strip_prefix(root).unwrap_or(file).display().to_string()
}

/// Samples that went through here.
#[derive(Debug, Default)]
struct Frame {
    count: u32,
    callees: BTreeMap<String, Frame>,
}

/// The samples of `perf script`: a line with the thread's name, then its stack from the innermost outwards, then an empty line.
fn fold(text: &str) -> Frame {
    let mut root = Frame::default();
    for sample in text.split("\n\n") {
        let mut lines = sample.lines().filter(|line| !line.trim().is_empty());
        let Some(thread) = lines.next() else { continue };
        let mut stack: Vec<String> = lines.filter_map(name).collect();
        stack.push(thread.trim().to_owned());
        root.count += 1;
        let mut frame = &mut root;
        for name in stack.into_iter().rev() {
            frame = frame.callees.entry(name).or_default();
            frame.count += 1;
        }
    }
    root
}

/// `ADDRESS NAME (FILE)`, as it is shown: without hashes, and with a mark where it is the kernel's.
fn name(line: &str) -> Option<String> {
    let (_, rest) = line.trim().split_once(' ')?;
    let (symbol, file) = rest.rsplit_once(" (").unwrap_or((rest, ""));
    let symbol = symbol.rsplit_once("::h").filter(|(_, hash)| hash.len() == 16).map_or(symbol, |(name, _)| name);
    let mut short: String = symbol.chars().take(LONGEST).collect();
    if file.contains("kernel") {
        short += " [k]";
    }
    Some(short)
}

/// A picture without a script: each frame has its whole name and share as a tooltip.
fn draw(root: &Frame, title: &str) -> String {
    let least = (f64::from(root.count) * LEAST).max(1.0);
    let height = (depth(root, least) as f64 + 1.0) * ROW + 24.0;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"monospace\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n<text x=\"4\" y=\"14\">{}</text>\n",
        escaped(title)
    );
    let mut place = Place { out: &mut out, all: f64::from(root.count.max(1)), least, bottom: height - ROW };
    place.callees(root, 0.0, 0.0);
    out + "</svg>\n"
}

fn depth(frame: &Frame, least: f64) -> usize {
    let drawn = frame.callees.values().filter(|callee| f64::from(callee.count) >= least);
    drawn.map(|callee| depth(callee, least) + 1).max().unwrap_or(0)
}

struct Place<'a> {
    out: &'a mut String,
    all: f64,
    least: f64,
    bottom: f64,
}

impl Place<'_> {
    fn callees(&mut self, frame: &Frame, mut x: f64, up: f64) {
        for (name, callee) in &frame.callees {
            let count = f64::from(callee.count);
            if count < self.least {
                continue;
            }
            let (width, y) = (count / self.all * WIDTH, self.bottom - up);
            let letters = (width / LETTER) as usize;
            let short: String = if letters >= 4 { name.chars().take(letters).collect() } else { String::new() };
            let _ = writeln!(
                self.out,
                "<g><title>{} {:.1}%</title><rect x=\"{x:.1}\" y=\"{y:.0}\" width=\"{width:.1}\" height=\"15\" fill=\"{}\"/>\
                 <text x=\"{:.1}\" y=\"{:.0}\">{}</text></g>",
                escaped(name),
                count / self.all * 100.0,
                colour(name),
                x + 2.0,
                y + 11.0,
                escaped(&short)
            );
            self.callees(callee, x, up + ROW);
            x += width;
        }
    }
}

/// By whose code it is.
fn colour(name: &str) -> &'static str {
    let of = |marks: &[&str]| marks.iter().any(|mark| name.contains(mark));
    if name.ends_with("[k]") {
        "#a8c5e8"
    } else if of(&["aws_lc", "nistz256", "argon2", "sha256", "blake2"]) {
        "#d0b3e6"
    } else if of(&["portcullis"]) {
        "#f4a460"
    } else if of(&["sqlite", "wal", "pager", "btree"]) {
        "#a9d8a0"
    } else {
        "#f3e08f"
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::{draw, fold};

    const SCRIPT: &str = "writer \n\tffff0 do_fsync ([kernel.kallsyms])\n\t5555 a::write::h0123456789abcdef (/x/portcullis)\n\n\
                          writer \n\t5556 b::<T>::idle (/x/portcullis)\n\n";

    #[test]
    fn stacks_are_folded_from_the_thread_inwards() {
        let root = fold(SCRIPT);
        let writer = &root.callees["writer"];
        assert_eq!((root.count, writer.count, writer.callees.len()), (2, 2, 2));
        assert_eq!(writer.callees["a::write"].callees["do_fsync [k]"].count, 1);
    }

    #[test]
    fn a_picture_shows_each_frame_once_and_escapes() {
        let picture = draw(&fold(SCRIPT), "x");
        assert_eq!(picture.matches("<rect x=").count(), 4);
        assert!(picture.contains("b::&lt;T&gt;::idle"));
    }
}
