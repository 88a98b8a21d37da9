//! Between columns and domain types: conversions that can fail, and say of which row.
use portcullis_domain::Cut;
use portcullis_store::{FaultKind, StoreError};
use portcullis_wire::{
    AccountId, ClientId, Digest, EventId, GrantId, InstanceId, JobId, LinkId, LogId, MessageId, Rev, RunId,
    SecretBytes, SessionId, Time, WebhookId,
};
use rusqlite::types::{FromSql, ToSql, ToSqlOutput};
use rusqlite::{Connection, ErrorCode, Params, Row};
use std::fmt;

/// Why reading or writing did not work out.
#[derive(Debug)]
pub(crate) enum Fault {
    /// SQLite says so.
    Sqlite(rusqlite::Error),
    /// A row that this program did not write, or a rule of this program that a row breaks. Names table and id.
    Row(String),
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(error) => write!(f, "SQLite: {error}"),
            Self::Row(what) => f.write_str(what),
        }
    }
}
impl Fault {
    /// As operators tell them apart.
    pub(crate) fn kind(&self) -> FaultKind {
        let code = match self {
            Self::Sqlite(error) => error.sqlite_error_code(),
            Self::Row(_) => Some(ErrorCode::DatabaseCorrupt),
        };
        match code {
            Some(ErrorCode::DiskFull) => FaultKind::Full,
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => FaultKind::ReadOnly,
            Some(ErrorCode::SystemIoFailure | ErrorCode::CannotOpen) => FaultKind::Io,
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => FaultKind::Busy,
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => FaultKind::Damaged,
            _ => FaultKind::Other,
        }
    }
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
blob_ids!(AccountId SessionId GrantId ClientId EventId InstanceId JobId LinkId LogId MessageId RunId WebhookId);

/// A number to be kept. SQLite's integers are signed: what does not fit is an error, never a negative number.
pub(crate) struct Int(pub(crate) u64);

impl ToSql for Int {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        match i64::try_from(self.0) {
            Ok(number) => Ok(ToSqlOutput::from(number)),
            Err(error) => Err(rusqlite::Error::ToSqlConversionFailure(error.into())),
        }
    }
}

pub(crate) fn rev(rev: Rev) -> Int {
    Int(rev.0)
}

/// The columns of a row, from left to right. Tables begin with their id, so that errors can name the row.
pub(crate) struct Cells<'r, 's> {
    row: &'r Row<'s>,
    next: usize,
    table: &'static str,
    first: usize,
}

impl<'r, 's> Cells<'r, 's> {
    pub(crate) fn new(row: &'r Row<'s>) -> Self {
        Self { row, next: 0, table: "", first: 0 }
    }
    /// From here on the columns are those of `table`.
    pub(crate) fn table(&mut self, table: &'static str) -> &mut Self {
        (self.table, self.first) = (table, self.next);
        self
    }
    /// A fault of this row.
    pub(crate) fn wrong(&self, what: impl fmt::Display) -> Fault {
        use rusqlite::types::ValueRef;
        let id = match self.row.get_ref(self.first) {
            Ok(ValueRef::Blob(blob)) => blob.iter().map(|byte| format!("{byte:02x}")).collect(),
            Ok(ValueRef::Integer(number)) => number.to_string(),
            Ok(ValueRef::Text(text)) => String::from_utf8_lossy(text).into_owned(),
            _ => "?".to_owned(),
        };
        Fault::Row(format!("table {}, row {id}: {what}", self.table))
    }
    /// Whether the next column holds nothing.
    pub(crate) fn is_null(&self) -> bool {
        self.row.get_ref(self.next).is_ok_and(|value| value == rusqlite::types::ValueRef::Null)
    }
    /// The next column as it is.
    pub(crate) fn get<T: FromSql>(&mut self) -> Result<T, Fault> {
        let column = self.next;
        self.next += 1;
        self.row.get(column).map_err(|error| {
            let name = self.row.as_ref().column_name(column).unwrap_or("?");
            self.wrong(format_args!("column {name}: {error}"))
        })
    }
    /// The next columns are nobody's business.
    pub(crate) fn pass(&mut self, columns: usize) {
        self.next += columns;
    }
    pub(crate) fn id<T: Id>(&mut self) -> Result<T, Fault> {
        self.get().map(T::from_blob)
    }
    pub(crate) fn id_if<T: Id>(&mut self) -> Result<Option<T>, Fault> {
        Ok(self.get::<Option<[u8; 16]>>()?.map(T::from_blob))
    }
    pub(crate) fn u64(&mut self) -> Result<u64, Fault> {
        let number: i64 = self.get()?;
        u64::try_from(number).map_err(|_| self.wrong(format_args!("{number} where no negative number belongs")))
    }
    pub(crate) fn u64_if(&mut self) -> Result<Option<u64>, Fault> {
        match self.get::<Option<i64>>()? {
            None => Ok(None),
            Some(number) => {
                let number = u64::try_from(number);
                number.map(Some).map_err(|_| self.wrong("a negative number where none belongs"))
            }
        }
    }
    pub(crate) fn rev(&mut self) -> Result<Rev, Fault> {
        self.u64().map(Rev)
    }
    pub(crate) fn rev_if(&mut self) -> Result<Option<Rev>, Fault> {
        Ok(self.u64_if()?.map(Rev))
    }
    pub(crate) fn time(&mut self) -> Result<Time, Fault> {
        self.get().map(Time)
    }
    pub(crate) fn time_if(&mut self) -> Result<Option<Time>, Fault> {
        Ok(self.get::<Option<i64>>()?.map(Time))
    }
    pub(crate) fn digest(&mut self) -> Result<Digest, Fault> {
        self.get().map(Digest)
    }
    pub(crate) fn digest_if(&mut self) -> Result<Option<Digest>, Fault> {
        Ok(self.get::<Option<[u8; 32]>>()?.map(Digest))
    }
    pub(crate) fn secret(&mut self) -> Result<SecretBytes, Fault> {
        self.get::<Vec<u8>>().map(SecretBytes::new)
    }
    pub(crate) fn cut(&mut self) -> Result<Cut, Fault> {
        Ok(Cut { rev: self.rev()?, except: self.id_if()? })
    }
    /// A text that `parse` must understand.
    pub(crate) fn word<T>(&mut self, parse: impl FnOnce(&str) -> Option<T>) -> Result<T, Fault> {
        let text = self.text()?;
        parse(text).ok_or_else(|| self.wrong(format_args!("the word {text:?} is not known to this program")))
    }
    /// A text where it lies, for as long as the row is looked at.
    pub(crate) fn text(&mut self) -> Result<&'r str, Fault> {
        let (row, column) = (self.row, self.next);
        self.next += 1;
        let text = row.get_ref(column).map_err(|error| error.to_string());
        let text = text.and_then(|value| value.as_str().map_err(|error| error.to_string()));
        text.map_err(|error| {
            let name = row.as_ref().column_name(column).unwrap_or("?");
            self.wrong(format_args!("column {name}: {error}"))
        })
    }
    pub(crate) fn ip_if(&mut self) -> Result<Option<std::net::IpAddr>, Fault> {
        match self.get::<Option<String>>()? {
            None => Ok(None),
            Some(text) => text.parse().map(Some).map_err(|_| self.wrong(format_args!("{text:?} is no IP address"))),
        }
    }
    pub(crate) fn roles(&mut self) -> Result<Vec<String>, Fault> {
        let text = self.text()?;
        if text == "[]" {
            return Ok(Vec::new());
        }
        serde_json::from_str(text).map_err(|_| self.wrong("roles are no list of texts in JSON"))
    }
}

/// Roles as they are kept.
pub(crate) fn roles(roles: &[String]) -> String {
    serde_json::Value::from(roles.to_vec()).to_string()
}

/// The only row of a statement, if there is one.
pub(crate) fn one<T>(
    connection: &Connection,
    sql: &str,
    params: impl Params,
    read: impl FnOnce(&mut Cells<'_, '_>) -> Result<T, Fault>,
) -> Result<Option<T>, Fault> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    match rows.next()? {
        Some(row) => read(&mut Cells::new(row)).map(Some),
        None => Ok(None),
    }
}

/// All rows of a statement.
pub(crate) fn all<T>(
    connection: &Connection,
    sql: &str,
    params: impl Params,
    mut read: impl FnMut(&mut Cells<'_, '_>) -> Result<T, Fault>,
) -> Result<Vec<T>, Fault> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    let mut out = Vec::new();
    while let Some(row) = rows.next()? {
        out.push(read(&mut Cells::new(row))?);
    }
    Ok(out)
}

/// Whether a statement has a row.
pub(crate) fn any(connection: &Connection, sql: &str, params: impl Params) -> Result<bool, Fault> {
    Ok(connection.prepare_cached(sql)?.exists(params)?)
}
