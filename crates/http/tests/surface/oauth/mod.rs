//! `/oauth2` and `/.well-known`: applications by OAuth 2.1 and OpenID Connect.
mod apps;
mod assertion;
mod browser;
mod clients;
mod code;
mod device;
mod exchange;
mod machine;
mod register;
mod dpop;
mod id_tokens;
mod par;
mod request;
mod service;
mod tokens;
