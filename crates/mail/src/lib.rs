//! Mail: in which words something is said, and how it gets to a mail server; and a small receiver that catches mails, for trying
//! things out and for tests.
//!
//! What is said, to whom and when is decided elsewhere: this crate knows no account and no internal crate. A [`Mailer`] is made once,
//! of checked settings and of templates that were read and tried, so that a mistake in one of them is told at the start and not when
//! somebody waits for a mail. The text is the mail; its HTML part is made of the text, so the two cannot say different things.
pub mod catcher;
mod templates;
mod transport;

pub use catcher::{Catcher, Caught};
pub use templates::{LANGUAGES, NAMES, VALUES, Written};
pub use transport::{Failed, Mail, MailOptions, Mailer};
