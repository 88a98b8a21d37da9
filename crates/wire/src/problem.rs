//! Problem codes (RFC 9457): the one word that programs read. Servers and verifiers use the same.

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $status:literal, $title:literal;)*) => {
        /// A problem's `code`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Code { $($(#[$doc])* $name,)* }
        impl Code {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];
            /// The word in `code` and in `error_description`.
            pub const fn as_str(self) -> &'static str { match self { $(Self::$name => $code,)* } }
            /// The HTTP status that goes with it.
            pub const fn status(self) -> u16 { match self { $(Self::$name => $status,)* } }
            /// A short summary for people, the same for every occurrence.
            pub const fn title(self) -> &'static str { match self { $(Self::$name => $title,)* } }
        }
    };
}

codes! {
    /// The request cannot be read.
    Malformed = "malformed", 400, "The request cannot be read";
    /// Unknown, wrong and throttled alike, and blocked with a wrong secret.
    InvalidCredentials = "invalid_credentials", 401, "These credentials are not right";
    /// One more factor is needed.
    SecondFactorRequired = "second_factor_required", 401, "A second factor is required";
    /// Not a refresh token of this server.
    RefreshInvalid = "refresh_invalid", 401, "This refresh token is not valid";
    /// The session reached its idle or absolute end, or the token is of an older epoch.
    RefreshExpired = "refresh_expired", 401, "This refresh token has expired";
    /// The token was used before: it is treated as stolen.
    RefreshReused = "refresh_reused", 401, "This refresh token was used before";
    /// The session was ended.
    SessionEnded = "session_ended", 401, "This session has ended";
    /// The act needs a fresh authentication.
    StepUpRequired = "step_up_required", 401, "Please authenticate again";
    /// No token was given.
    TokenMissing = "token_missing", 401, "A bearer token is required";
    /// The token cannot be read, or its signature is not right.
    TokenMalformed = "token_malformed", 401, "This token is not valid";
    /// The token is past its `exp`.
    TokenExpired = "token_expired", 401, "This token has expired";
    /// An entry of the log ended it.
    TokenRevoked = "token_revoked", 401, "This token was revoked";
    /// Its claims are out of date: refresh, then go on.
    TokenStale = "token_stale", 401, "This token is out of date; refresh it";
    /// The token is bound to a key, and the proof of that key is missing or wrong (RFC 9449).
    ProofInvalid = "proof_invalid", 401, "The proof of this token's key is not valid";
    /// The account is blocked (said only to who proved every factor).
    AccountBlocked = "account_blocked", 403, "This account is blocked";
    /// The account's address was not verified, and must be (said only after the right password).
    EmailNotVerified = "email_not_verified", 403, "The address of this account is not verified yet";
    /// The actor may not do this.
    Forbidden = "forbidden", 403, "This is not allowed";
    /// The token lacks the scope.
    InsufficientScope = "insufficient_scope", 403, "This token does not reach far enough";
    /// The request comes from a page of another origin, or of none that can be told.
    OriginRefused = "origin_refused", 403, "Requests from this origin are refused";
    /// It does not exist, or is another's.
    NotFound = "not_found", 404, "There is no such thing";
    /// The path exists, the method does not.
    MethodNotAllowed = "method_not_allowed", 405, "This method is not allowed here";
    /// The address has an account already.
    EmailTaken = "email_taken", 409, "This address has an account already";
    /// Something else happened at the same time.
    Conflict = "conflict", 409, "Something else happened at the same time";
    /// The verifier's instance is unknown: connect again.
    InstanceGone = "instance_gone", 409, "This instance is not known any more";
    /// The body is too large.
    TooLarge = "too_large", 413, "The body is too large";
    /// The body is of another type than expected.
    UnsupportedMediaType = "unsupported_media_type", 415, "The body is of an unsupported type";
    /// A member has a value that is not allowed.
    InvalidValue = "invalid_value", 422, "A value is not allowed";
    /// The new password is in a list of stolen ones.
    PasswordBreached = "password_breached", 422, "This password is in a list of stolen ones";
    /// A fault on this side; try again.
    Unavailable = "unavailable", 503, "The service is not available at the moment";
    /// Too much to do; try again.
    Overloaded = "overloaded", 503, "The service has too much to do at the moment";
    /// The verifier does not know whether the token still lives.
    NotFresh = "not_fresh", 503, "Revocations cannot be checked at the moment";
}

impl core::fmt::Display for Code {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.as_str())
    }
}
