//! A later token shown on an open connection (DESIGN I14): whether it is this connection's, and whether it is the newest.
use portcullis_wire::{AccessClaims, Epoch, Rev};

/// What a token that was shown is to the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// The newest: from now on the connection stands on it alone.
    Newest,
    /// No newer than what the connection stands on: nothing changes.
    Older,
}

/// The token is good, but not for this connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotTheSame {
    /// It is another account's, or another acts for it.
    Account,
    /// It is another session's.
    Session,
    /// It was issued to another client, or came through others.
    Client,
}

impl NotTheSame {
    /// A word for logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Account => "another_account",
            Self::Session => "another_session",
            Self::Client => "another_client",
        }
    }
}

/// Compares an accepted token with the one that the connection stands on. Whatever can be ended by itself must stay the same:
/// otherwise an end would miss the connection that it was meant for.
///
/// # Errors
/// [`NotTheSame`]: the connection goes on with the token that it has.
pub fn renewal(stands_on: &AccessClaims, shown: &AccessClaims) -> Result<Shown, NotTheSame> {
    if shown.sub != stands_on.sub || shown.act != stands_on.act {
        return Err(NotTheSame::Account);
    }
    if shown.sid != stands_on.sid {
        return Err(NotTheSame::Session);
    }
    if shown.client_id != stands_on.client_id || shown.via != stands_on.via {
        return Err(NotTheSame::Client);
    }
    Ok(if age(shown) > age(stands_on) { Shown::Newest } else { Shown::Older })
}

/// The order in which tokens of one session were minted: none of these ever falls from one to the next. `exp` alone would not
/// do: lives differ, and of two tokens the one that lasts longer may be the one that is stale.
fn age(claims: &AccessClaims) -> (Epoch, Rev, i64, i64) {
    (claims.epoch, claims.rev, claims.iat, claims.exp)
}
