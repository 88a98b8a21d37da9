//! `/v1/admin`.
mod accounts;
mod clients;
mod keys;
mod revocations;
mod transfer;
mod who;
