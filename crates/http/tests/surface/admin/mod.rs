//! `/v1/admin`.
mod accounts;
mod clients;
mod filters;
mod keys;
mod revocations;
mod transfer;
mod who;
