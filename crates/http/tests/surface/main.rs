//! The outside surface, asked from outside: real HTTP, the real SQLite store, a real browser. Modules mirror the routes.
mod accounts;
mod admin;
mod bad_input;
mod connections;
mod cookies;
mod faults;
mod feed;
mod me;
mod oauth;
mod ops;
mod pages;
mod problems;
mod sessions;
