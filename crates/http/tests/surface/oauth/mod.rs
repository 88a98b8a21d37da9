//! `/oauth2` and `/.well-known`: applications by OAuth 2.1 and OpenID Connect.
mod apps;
mod assertion;
mod at_once;
mod browser;
mod clients;
mod code;
mod device;
mod dpop;
mod exchange;
mod id_tokens;
mod machine;
mod par;
mod register;
mod request;
mod service;
mod tokens;
