//! The SQLite store: the suite of `portcullis-store`, and what only a file on a disk can show.
mod smoke;
mod support;
