//! A file line by line, in bounded memory.
use crate::cli::exit::Failure;
use portcullis_wire::Digest;
use std::fs::File;
use std::io::{BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};

/// The longest line, in bytes: far beyond any account.
pub const MAX_LINE: usize = 16 << 10;

/// What stands between two ends of lines.
pub enum Read {
    /// Its bytes, without the end.
    Line(Vec<u8>),
    /// More than [`MAX_LINE`].
    TooLong,
}

pub struct Lines {
    path: PathBuf,
    from: Box<dyn BufRead>,
    number: u64,
    /// Of everything read so far: each line's digest is chained to those before.
    digest: Digest,
}

impl Lines {
    /// Opens a file, or standard input.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let from: Box<dyn BufRead> = if path == Path::new("-") {
            Box::new(BufReader::new(std::io::stdin()))
        } else {
            let file = File::open(path).and_then(|file| {
                if file.metadata()?.is_dir() { Err(std::io::ErrorKind::IsADirectory.into()) } else { Ok(file) }
            });
            let file = file.map_err(|error| Failure::config(format!("{} cannot be read: {error}", path.display())))?;
            Box::new(BufReader::with_capacity(64 << 10, file))
        };
        Ok(Self { path: path.to_owned(), from, number: 0, digest: Digest::of(b"portcullis import") })
    }

    /// The number of the last line that was read; the first is 1.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The digest of everything read so far.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The next line; `None` at the end. The mark that some programs put before the first line is passed over, and so is the
    /// CR of those that end lines by CR LF.
    pub fn next(&mut self) -> Result<Option<Read>, Failure> {
        let mut bytes = Vec::new();
        self.up_to_newline(&mut bytes)?;
        if bytes.is_empty() {
            return Ok(None);
        }
        let mut chained = self.digest.0.to_vec();
        chained.extend_from_slice(&Digest::of(&bytes).0);
        let mut long = bytes.len() > MAX_LINE && bytes.last() != Some(&b'\n');
        // The rest of a line that is too long is read past, piece by piece.
        while long {
            bytes.clear();
            self.up_to_newline(&mut bytes)?;
            chained.extend_from_slice(&Digest::of(&bytes).0);
            chained = Digest::of(&chained).0.to_vec();
            if bytes.is_empty() || bytes.last() == Some(&b'\n') {
                long = false;
                bytes = vec![b'x'; MAX_LINE + 1];
            }
        }
        self.digest = Digest::of(&chained);
        self.number += 1;
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
        }
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
        if self.number == 1 && bytes.starts_with(b"\xef\xbb\xbf") {
            bytes.drain(..3);
        }
        Ok(Some(if bytes.len() > MAX_LINE { Read::TooLong } else { Read::Line(bytes) }))
    }

    fn up_to_newline(&mut self, bytes: &mut Vec<u8>) -> Result<(), Failure> {
        let read = self.from.by_ref().take(MAX_LINE as u64 + 3).read_until(b'\n', bytes);
        read.map(|_| ()).map_err(|error| Failure::config(format!("{} cannot be read: {error}", self.path.display())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> (Vec<Option<String>>, Digest) {
        let from = Box::new(std::io::Cursor::new(bytes.to_vec()));
        let mut lines = Lines { path: PathBuf::new(), from, number: 0, digest: Digest::of(b"") };
        let mut out = Vec::new();
        while let Some(line) = lines.next().unwrap() {
            out.push(match line {
                Read::Line(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
                Read::TooLong => None,
            });
        }
        assert_eq!(lines.number() as usize, out.len());
        (out, lines.digest())
    }

    #[test]
    fn ends_marks_and_lengths() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(read(b"").0, []);
        assert_eq!(read(b"\n").0, [some("")]);
        assert_eq!(read(b"\xef\xbb\xbfa\r\nb\n\nc").0, [some("a"), some("b"), some(""), some("c")]);
        assert_eq!(read(b"a\n\xef\xbb\xbfb").0, [some("a"), some("\u{feff}b")], "only before the first line");
        for (length, fits) in
            [(MAX_LINE, true), (MAX_LINE + 1, false), (MAX_LINE + 2, false), (MAX_LINE * 5 + 7, false)]
        {
            for end in ["", "\n", "\r\n"] {
                let text = format!("a\n{}{end}", "x".repeat(length));
                let (lines, _) = read(text.as_bytes());
                assert_eq!((lines.len(), lines[1].is_some()), (2, fits), "{length} {end:?}");
                let (lines, _) = read(format!("{text}{}b\n", if end.is_empty() { "\n" } else { "" }).as_bytes());
                assert_eq!((lines.len(), lines[2].as_deref()), (3, Some("b")), "{length} {end:?}");
            }
        }
    }

    #[test]
    fn the_digest_is_of_every_byte() {
        let long = "x".repeat(MAX_LINE * 3);
        let digests: Vec<_> = [
            "a\nb\n",
            "a\nb",
            "a\nc\n",
            "ab\n",
            "a\n\nb\n",
            "a\r\nb\n",
            &format!("{long}\n"),
            &format!("{long}x\n"),
            &long,
            &format!("y{long}\n"),
        ]
        .iter()
        .map(|text| read(text.as_bytes()).1.0)
        .collect();
        for (n, digest) in digests.iter().enumerate() {
            assert!(!digests[n + 1..].contains(digest), "{n}");
        }
    }
}
