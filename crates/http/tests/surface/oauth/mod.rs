//! `/oauth2` and `/.well-known`: applications by OAuth 2.1 and OpenID Connect.
mod apps;
mod clients;
mod code;
mod par;
mod request;
mod tokens;
