//! `/oauth2` and `/.well-known`: applications by OAuth 2.1 and OpenID Connect.
mod apps;
mod browser;
mod clients;
mod code;
mod global;
mod logout;
mod outbox;
mod request;
mod tokens;
mod upstream;
mod upstream_logout;
