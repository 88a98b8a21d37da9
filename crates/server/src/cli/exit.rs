//! How a command ends: five exit codes that scripts can rely on (DESIGN §8).
use std::fmt;
use std::process::ExitCode;

/// The exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It was done.
    Done = 0,
    /// The server refused it, or it failed on the way.
    Refused = 1,
    /// The command line or the configuration is not right.
    Usage = 2,
    /// The server cannot be reached.
    Unreachable = 3,
    /// A check came out otherwise than it should.
    CheckFailed = 4,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command was not done: what to tell the operator, and the exit code.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// In words; one or more lines, no secrets.
    pub message: String,
}

impl Failure {
    /// The configuration, or what it names, is not usable.
    pub fn config(message: impl fmt::Display) -> Self {
        Self { exit: Exit::Usage, message: message.to_string() }
    }
    /// It was refused or failed.
    pub fn refused(message: impl fmt::Display) -> Self {
        Self { exit: Exit::Refused, message: message.to_string() }
    }
    /// Nobody answers.
    pub fn unreachable(message: impl fmt::Display) -> Self {
        Self { exit: Exit::Unreachable, message: message.to_string() }
    }
}

/// What a command comes to.
pub type Outcome = Result<Exit, Failure>;
