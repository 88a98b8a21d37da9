//! Calls that the server makes to addresses that others chose: logout receivers, key sets, sector identifiers, other providers.
//!
//! Whoever registers an address could otherwise have the server knock at doors that only it can reach (SSRF). So a host's name is
//! resolved here, every address that it has is looked at by [`is_public`] *before* anything is sent, and the connection is made to
//! the very address that was looked at: a name that answers differently the next moment (rebinding) gains nothing. No redirect is
//! followed, no proxy is asked, nothing is kept between calls, and every wait and every body has a limit.
//!
//! What may not happen here: any rule of what is called, and why. Tokens and secrets are the callers' matter.
mod address;
mod authorities;
mod call;

pub use address::{Allowed, is_public};
pub use authorities::Authorities;
pub use call::{Calls, Found, Limits, Lookup, Outgoing, OutgoingError, Response, SystemLookup};
