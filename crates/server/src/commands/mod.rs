//! One file per command.
pub mod accounts;
pub mod clients;
pub mod config;
pub mod demo_api;
pub mod dev;
pub mod export;
pub mod import;
pub mod keys;
pub mod node;
pub mod remote;
pub mod revoke;
pub mod serve;
pub mod upkeep;
