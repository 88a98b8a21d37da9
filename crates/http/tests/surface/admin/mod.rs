//! `/v1/admin`.
mod accounts;
mod clients;
mod revocations;
mod who;
