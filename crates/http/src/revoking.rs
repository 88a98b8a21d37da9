//! What every revoking call answers (DESIGN §8): `{rev, ended, enforcement}`, at once or when it is true everywhere.
use crate::problem::Problem;
use crate::render;
use crate::request::{Ctx, Ends, Params};
use axum::response::Response;
use portcullis_app::hub::enforcement::Enforcement;
use portcullis_app::{RepeatKey, Revoked};
use portcullis_wire::Code;
use serde_json::{Value, json};
use std::time::Duration;

/// The parameters of a revoking call.
pub(crate) const WAIT: [&str; 2] = ["wait", "timeout_ms"];

/// The longest wait.
const MAX_WAIT_MS: u64 = 60_000;

/// Whether, and how long, a call waits until it is enforced.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wait(pub(crate) Option<Duration>);

impl Wait {
    /// `?wait=enforced&timeout_ms=`; 2B unless given, at most 60,000 ms.
    pub(crate) fn of(ctx: &Ctx, params: &mut Params) -> Result<Self, Problem> {
        let timeout_ms = match params.take("timeout_ms").map(|text| text.parse::<u64>()) {
            None => None,
            Some(Ok(ms)) if ms <= MAX_WAIT_MS => Some(ms),
            Some(_) => {
                return Err(Problem::value("timeout_ms", "must be a whole number of milliseconds from 0 to 60000"));
            }
        };
        match params.take("wait").as_deref() {
            None => Ok(Self(None)),
            Some("enforced") => {
                let bound_ms = u64::try_from(ctx.app().hub().bound_ms()).unwrap_or(0);
                let ms = timeout_ms.unwrap_or_else(|| bound_ms.saturating_mul(2)).min(MAX_WAIT_MS);
                Ok(Self(Some(Duration::from_millis(ms))))
            }
            Some(_) => Err(Problem::value("wait", "must be `enforced`")),
        }
    }

    /// From a request with no other parameters.
    pub(crate) fn only(ctx: &Ctx) -> Result<Self, Problem> {
        Self::of(ctx, &mut ctx.params(&WAIT)?)
    }
}

/// The one who may end something, or what their call came to when it was made before.
pub(crate) enum Who<T> {
    /// Go on.
    Acts(T),
    /// It was done already, and has ended the session that asked.
    Did(Revoked),
}

/// A call with a repeat key whose token is dead may be the repetition of the very call that killed it.
pub(crate) async fn or_before<T>(ctx: &Ctx, repeat: Option<&RepeatKey>, who: Ends<T>) -> Result<Who<T>, Problem> {
    match (who.0, repeat) {
        (Ok(who), _) => Ok(Who::Acts(who)),
        (Err(refused), Some(repeat)) if refused.code == Code::TokenRevoked => {
            ctx.app().ended_before(ctx.bearer(), repeat).await?.map(Who::Did).ok_or(refused)
        }
        (Err(refused), _) => Err(refused),
    }
}

/// The answer once `revoked` is committed, after waiting if that was asked for.
pub(crate) async fn reply(ctx: &Ctx, revoked: &Revoked, wait: Wait) -> Response {
    render::ok(&body(ctx, revoked, wait).await)
}

/// The body of that answer.
pub(crate) async fn body(ctx: &Ctx, revoked: &Revoked, wait: Wait) -> Value {
    let hub = ctx.app().hub();
    let enforcement = match wait.0 {
        Some(timeout) => hub.wait_enforced(revoked, timeout).await,
        None => hub.enforcement_at_once(revoked).await,
    };
    json!({ "rev": revoked.rev, "ended": revoked.ended, "enforcement": enforcement_body(revoked, &enforcement) })
}

/// `enforcement`. `bounded_by` is the time by which arithmetic alone makes it true.
pub(crate) fn enforcement_body(revoked: &Revoked, enforcement: &Enforcement) -> Value {
    let counts = &enforcement.counts;
    json!({
        "acknowledged": counts.acknowledged, "lapsed": counts.lapsed, "pending": counts.pending,
        "until_expiry": counts.until_expiry, "bounded_by": revoked.at.plus(counts.bounded_by_ms),
        "complete": counts.complete, "took_ms": enforcement.took_ms,
    })
}
