//! Server-sent events (WHATWG HTML §9.2), as bytes come in: `id`, `event`, `data`; comments and `retry` are skipped.
//!
//! One event may have at most the bytes that the reader was made for; a longer one is an error, for a feed that sends more
//! than that is none.

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// `event`; `message` when none was given.
    pub name: String,
    /// `data`, its lines joined.
    pub data: String,
    /// `id`, when this event gave one.
    pub id: Option<String>,
}

/// The stream is no event stream, or an event is too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotEvents;

/// Takes bytes in, gives events out.
#[derive(Debug)]
pub struct Reader {
    limit: usize,
    line: Vec<u8>,
    after_cr: bool,
    first_line: bool,
    name: String,
    data: String,
    has_data: bool,
    id: Option<String>,
    bytes: usize,
}

impl Reader {
    /// For events of at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            line: Vec::new(),
            after_cr: false,
            first_line: true,
            name: String::new(),
            data: String::new(),
            has_data: false,
            id: None,
            bytes: 0,
        }
    }

    /// Takes bytes in; returns the events that they complete.
    ///
    /// # Errors
    /// [`NotEvents`] for an event beyond the limit and for what is not UTF-8. The stream is of no use then.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<Vec<Event>, NotEvents> {
        let mut events = Vec::new();
        while !bytes.is_empty() {
            if core::mem::take(&mut self.after_cr) && bytes[0] == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let end = bytes.iter().position(|b| matches!(b, b'\n' | b'\r'));
            let part = &bytes[..end.unwrap_or(bytes.len())];
            self.bytes += part.len();
            if self.bytes > self.limit {
                return Err(NotEvents);
            }
            self.line.extend_from_slice(part);
            let Some(end) = end else { break };
            self.after_cr = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
            let line = core::mem::take(&mut self.line);
            if let Some(event) = self.end_of_line(&line)? {
                events.push(event);
            }
            self.line = line;
            self.line.clear();
        }
        Ok(events)
    }

    fn end_of_line(&mut self, line: &[u8]) -> Result<Option<Event>, NotEvents> {
        let line = std::str::from_utf8(line).map_err(|_| NotEvents)?;
        let line = if core::mem::take(&mut self.first_line) { line.trim_start_matches('\u{feff}') } else { line };
        if line.is_empty() {
            return Ok(self.dispatch());
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "" => self.bytes = self.bytes.saturating_sub(line.len()), // a comment is no part of an event
            "event" => value.clone_into(&mut self.name),
            "id" if !value.contains('\0') => self.id = Some(value.to_owned()),
            "data" => {
                if core::mem::replace(&mut self.has_data, true) {
                    self.data.push('\n');
                }
                self.data.push_str(value);
            }
            _ => {}
        }
        Ok(None)
    }

    fn dispatch(&mut self) -> Option<Event> {
        self.bytes = 0;
        let name = core::mem::take(&mut self.name);
        let name = if name.is_empty() { "message".to_owned() } else { name };
        let (data, id) = (core::mem::take(&mut self.data), self.id.take());
        core::mem::take(&mut self.has_data).then_some(Event { name, data, id })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: &str, data: &str, id: Option<&str>) -> Event {
        Event { name: name.into(), data: data.into(), id: id.map(Into::into) }
    }

    #[test]
    fn the_same_however_it_is_cut() {
        let text = "\u{feff}: hi\nevent: hello\ndata: {\"a\":1}\nid: 1.2.x\n\n:\r\n\r\ndata:a\rdata:  b\r\rid: 3\n\ndata\n\nretry: 5\n\ndata: ü\r\n\r\nevent: cut\ndata: of";
        let want = [
            event("hello", "{\"a\":1}", Some("1.2.x")),
            event("message", "a\n b", None),
            event("message", "", None),
            event("message", "ü", None),
        ];
        for size in 1..text.len() {
            let mut reader = Reader::new(1000);
            let got: Vec<Event> = text.as_bytes().chunks(size).flat_map(|c| reader.push(c).unwrap()).collect();
            // an id without data belongs to no event of ours
            assert_eq!(got, want, "in pieces of {size}");
        }
    }

    #[test]
    fn too_much_or_no_text_is_refused() {
        let mut reader = Reader::new(100);
        assert!(reader.push(&[b'x'; 101]).is_err());
        let mut reader = Reader::new(100);
        for _ in 0..20 {
            assert!(reader.push(b"data: 0123456789\n").is_ok() || reader.bytes > 100);
        }
        assert!(reader.push(b"data: 0123456789\n").is_err());
        let mut reader = Reader::new(100);
        for _ in 0..1000 {
            assert_eq!(reader.push(b": a heartbeat, again and again\n\n"), Ok(Vec::new()));
            assert_eq!(reader.push(b": and without an empty line\n"), Ok(Vec::new()));
        }
        assert_eq!(Reader::new(100).push(b"data: \xff\n\n"), Err(NotEvents));
    }
}
