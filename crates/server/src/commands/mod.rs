//! One file per command.
pub mod accounts;
pub mod audit;
pub mod clients;
pub mod config;
mod database;
pub mod demo_api;
pub mod dev;
pub mod doctor;
pub mod export;
pub mod feed;
pub mod import;
pub mod keys;
pub mod node;
pub mod remote;
pub mod revoke;
pub mod serve;
pub mod sessions;
pub mod upkeep;
