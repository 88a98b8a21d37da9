//! `/oauth2` and `/.well-known`: applications by OAuth 2.1 and OpenID Connect.
mod apps;
mod at_once;
mod browser;
mod clients;
mod code;
mod request;
mod tokens;
