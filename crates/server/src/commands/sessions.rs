//! `portcullis sessions`: which there are, and ending them.
use super::accounts::{end_sessions, list_sessions, revoking};
use super::remote::{Remote, block_on};
use crate::cli::exit::{Failure, Outcome};
use crate::cli::look::{SessionsAct, SessionsArgs};
use http::Method;
use portcullis_wire::SessionId;

/// Does what was asked for.
pub fn run(args: &SessionsArgs) -> Outcome {
    block_on(async {
        let mut remote = Remote::of(&args.reach)?;
        let json = args.reach.json;
        match &args.act {
            SessionsAct::List { account, page } => list_sessions(&mut remote, account, page, json).await,
            SessionsAct::EndAll { account, wait } => end_sessions(&mut remote, account, wait, json).await,
            SessionsAct::End { session, wait } => {
                let id: SessionId = session.parse().map_err(|_| {
                    Failure::config(format!(
                        "{session:?} is no session's id (ses_…); `sessions list ACCOUNT` shows them"
                    ))
                })?;
                let path = format!("/v1/admin/sessions/{id}{}", wait.query());
                revoking(&mut remote, Method::DELETE, &path, None, json, wait.wait).await
            }
        }
    })
}
