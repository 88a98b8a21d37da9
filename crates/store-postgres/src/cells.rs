//! Between columns and domain types: conversions that can fail, and say of which row.
use portcullis_domain::Cut;
use portcullis_store::{FaultKind, StoreError};
use portcullis_wire::{
    AccountId, ClientId, Digest, EventId, GrantId, InstanceId, JobId, LinkId, LogId, MessageId, NodeId, Rev,
    SecretBytes, SessionId, Time, WebhookId,
};
use sqlx::postgres::{PgRow, Postgres};
use sqlx::{Column as _, Decode, Row as _, Type, ValueRef as _};
use std::borrow::Cow;
use std::fmt;

/// Why reading or writing did not work out.
#[derive(Debug)]
pub(crate) enum Fault {
    /// PostgreSQL says so, or the way to it broke.
    Sqlx(sqlx::Error),
    /// A row that this program did not write, or a rule of this program that a row breaks. Names table and id.
    Row(String),
}

impl From<sqlx::Error> for Fault {
    fn from(error: sqlx::Error) -> Self {
        Self::Sqlx(error)
    }
}
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlx(sqlx::Error::Database(error)) => match error.code() {
                Some(code) => write!(f, "PostgreSQL: {} (SQLSTATE {code})", error.message()),
                None => write!(f, "PostgreSQL: {}", error.message()),
            },
            Self::Sqlx(error) => write!(f, "PostgreSQL: {error}"),
            Self::Row(what) => f.write_str(what),
        }
    }
}
impl Fault {
    /// Whether others, asked for apart, may get an answer. 58: a page that cannot be read from the disk, too.
    pub(crate) fn is_of_one(&self) -> bool {
        let Self::Sqlx(sqlx::Error::Database(error)) = self else { return false };
        error.code().is_some_and(|code| is_of_one(&code) || code.starts_with("58"))
    }
    /// As operators tell them apart, by PostgreSQL's own codes (its manual's appendix A).
    pub(crate) fn kind(&self) -> FaultKind {
        let error = match self {
            Self::Sqlx(error) => error,
            Self::Row(_) => return FaultKind::Damaged,
        };
        match error {
            sqlx::Error::Database(error) => match error.code().as_deref() {
                Some("53100") => FaultKind::Full,
                Some("25006") => FaultKind::ReadOnly,
                Some("58030") => FaultKind::Io,
                Some("55P03" | "57014" | "53300" | "53400" | "40P01") => FaultKind::Busy,
                Some("XX001" | "XX002") => FaultKind::Damaged,
                // It is starting up, shutting down, or was killed.
                Some(code) if code.starts_with("57P0") => FaultKind::Io,
                _ => FaultKind::Other,
            },
            sqlx::Error::PoolTimedOut => FaultKind::Busy,
            sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) => FaultKind::Io,
            _ => FaultKind::Other,
        }
    }
}
/// Whether the server's error is for what one of several asked for together holds: values that do not fit, keys that are taken,
/// what the functions do not know, a row that is damaged.
pub(crate) fn is_of_one(code: &str) -> bool {
    ["22", "23", "42", "P0", "XX"].iter().any(|class| code.starts_with(class))
}

impl From<Fault> for StoreError {
    fn from(fault: Fault) -> Self {
        Self::of(fault.kind(), fault)
    }
}

/// Ids that are kept as 16 bytes, big-endian.
pub(crate) trait Id: Copy {
    fn from_blob(blob: [u8; 16]) -> Self;
    fn blob(self) -> [u8; 16];
}
macro_rules! blob_ids {
    ($($name:ident)*) => {$(
        impl Id for $name {
            fn from_blob(blob: [u8; 16]) -> Self { Self::from_bits(u128::from_be_bytes(blob)) }
            fn blob(self) -> [u8; 16] { self.bits().to_be_bytes() }
        }
    )*};
}
blob_ids!(AccountId SessionId GrantId ClientId EventId InstanceId JobId LinkId LogId MessageId NodeId WebhookId);

/// PostgreSQL's texts hold no NUL. It is kept as U+0001 `0`, and U+0001 as U+0001 `1`.
pub(crate) fn escaped(text: &str) -> Cow<'_, str> {
    if !text.contains(['\0', '\u{1}']) {
        return text.into();
    }
    text.replace('\u{1}', "\u{1}1").replace('\0', "\u{1}0").into()
}

/// The other way round.
fn unescaped(text: String) -> String {
    if !text.contains('\u{1}') {
        return text;
    }
    text.replace("\u{1}0", "\0").replace("\u{1}1", "\u{1}")
}

/// The columns of a row, from left to right. Tables begin with their id, so that errors can name the row.
pub(crate) struct Cells<'r> {
    row: &'r PgRow,
    next: usize,
    table: &'static str,
    from: usize,
}

impl<'r> Cells<'r> {
    pub(crate) fn new(row: &'r PgRow) -> Self {
        Self { row, next: 0, table: "?", from: 0 }
    }
    /// From the next column on the row is one of this table.
    pub(crate) fn table(&mut self, name: &'static str) -> &mut Self {
        (self.table, self.from) = (name, self.next);
        self
    }
    /// Whether the next column is null.
    pub(crate) fn is_null(&self) -> bool {
        self.row.try_get_raw(self.next).is_ok_and(|value| value.is_null())
    }
    /// A fault about this row.
    pub(crate) fn wrong(&self, what: impl fmt::Display) -> Fault {
        let id = match self.row.try_get::<Vec<u8>, _>(self.from) {
            Ok(id) => id.iter().map(|byte| format!("{byte:02x}")).collect(),
            Err(_) => self.row.try_get::<i64, _>(self.from).map_or_else(|_| "?".to_owned(), |id| id.to_string()),
        };
        Fault::Row(format!("table {}, row {id}: {what}", self.table))
    }
    pub(crate) fn get<T: Decode<'r, Postgres> + Type<Postgres>>(&mut self) -> Result<T, Fault> {
        let column = self.next;
        self.next += 1;
        self.row.try_get(column).map_err(|error| {
            let name = self.row.columns().get(column).map_or("?", |column| column.name());
            self.wrong(format_args!("column {name}: {error}"))
        })
    }
    pub(crate) fn text(&mut self) -> Result<String, Fault> {
        self.get().map(unescaped)
    }
    pub(crate) fn text_if(&mut self) -> Result<Option<String>, Fault> {
        Ok(self.get::<Option<String>>()?.map(unescaped))
    }
    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let bytes: &[u8] = self.get()?;
        bytes.try_into().map_err(|_| self.wrong(format_args!("{} bytes where {N} belong", bytes.len())))
    }
    pub(crate) fn bytes_if<const N: usize>(&mut self) -> Result<Option<[u8; N]>, Fault> {
        if self.is_null() {
            self.next += 1;
            return Ok(None);
        }
        self.bytes().map(Some)
    }
    /// Of any length.
    pub(crate) fn raw_if(&mut self) -> Result<Option<Vec<u8>>, Fault> {
        if self.is_null() {
            self.next += 1;
            return Ok(None);
        }
        self.get().map(Some)
    }
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        self.bytes()
    }
    pub(crate) fn id<T: Id>(&mut self) -> Result<T, Fault> {
        self.bytes().map(T::from_blob)
    }
    pub(crate) fn id_if<T: Id>(&mut self) -> Result<Option<T>, Fault> {
        Ok(self.bytes_if()?.map(T::from_blob))
    }
    /// A number that fits `T`.
    pub(crate) fn number<T: TryFrom<i64>>(&mut self) -> Result<T, Fault> {
        let number: i64 = self.get()?;
        T::try_from(number).map_err(|_| self.wrong(format_args!("the number {number} does not belong here")))
    }
    pub(crate) fn number_if<T: TryFrom<i64>>(&mut self) -> Result<Option<T>, Fault> {
        if self.is_null() {
            self.next += 1;
            return Ok(None);
        }
        self.number().map(Some)
    }
    pub(crate) fn rev(&mut self) -> Result<Rev, Fault> {
        self.number().map(Rev)
    }
    pub(crate) fn rev_if(&mut self) -> Result<Option<Rev>, Fault> {
        Ok(self.number_if()?.map(Rev))
    }
    pub(crate) fn time(&mut self) -> Result<Time, Fault> {
        self.get().map(Time)
    }
    pub(crate) fn time_if(&mut self) -> Result<Option<Time>, Fault> {
        Ok(self.get::<Option<i64>>()?.map(Time))
    }
    pub(crate) fn digest(&mut self) -> Result<Digest, Fault> {
        self.bytes().map(Digest)
    }
    pub(crate) fn digest_if(&mut self) -> Result<Option<Digest>, Fault> {
        Ok(self.bytes_if()?.map(Digest))
    }
    pub(crate) fn secret(&mut self) -> Result<SecretBytes, Fault> {
        self.get::<Vec<u8>>().map(SecretBytes::new)
    }
    pub(crate) fn cut(&mut self) -> Result<Cut, Fault> {
        Ok(Cut { rev: self.rev()?, except: self.id_if()? })
    }
    /// A text that `parse` must understand.
    pub(crate) fn word<T>(&mut self, parse: impl FnOnce(&str) -> Option<T>) -> Result<T, Fault> {
        let text: &str = self.get()?;
        parse(text).ok_or_else(|| self.wrong(format_args!("the word {text:?} is not known to this program")))
    }
    pub(crate) fn ip_if(&mut self) -> Result<Option<std::net::IpAddr>, Fault> {
        match self.get::<Option<&str>>()? {
            None => Ok(None),
            Some(text) => text.parse().map(Some).map_err(|_| self.wrong(format_args!("{text:?} is no IP address"))),
        }
    }
    pub(crate) fn roles(&mut self) -> Result<Vec<String>, Fault> {
        Ok(self.get::<Vec<String>>()?.into_iter().map(unescaped).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaping_is_taken_back() {
        for text in ["", "Ada", "a\0b", "\u{1}", "\u{1}0", "\0\u{1}1\0", "\u{1}1\u{1}0"] {
            let kept = escaped(text);
            assert!(!kept.contains('\0'));
            assert_eq!(unescaped(kept.into_owned()), text);
        }
    }
}
