//! The binary `portcullis`: configuration, telemetry, commands.
//!
//! Nothing is decided here. The settings are read once and checked ([`settings`]); `serve` joins a database, the operations
//! of `app` and the surface of `http` ([`commands::serve`]); the other commands talk to a running server over HTTP or over
//! its admin socket, never past it into its database. Standard output is for results, standard error for logs and complaints.
mod breached;
mod cli;
mod client;
mod commands;
mod files;
mod master;
mod risk;
mod settings;
mod telemetry;
mod tls;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    cli::run()
}
