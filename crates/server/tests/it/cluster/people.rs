//! People with up to three devices each, an administrator who blocks them for a while, and services that judge their tokens.
use super::{Dice, No, PASSWORD, World, now};
use crate::kept::insist;
use crate::support::ADMIN;
use portcullis_oracle::{At, Blocked, End, Lost, Said, Scope, Token, Unanswered, Verdict};
use portcullis_tower::wire::{AccountId, Code, SessionId};
use portcullis_tower::{Rule, Verifier};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The bound of the nodes in milliseconds.
const BOUND_MS: u64 = 2_000;

/// A session on a device.
pub struct Device {
    pub account: AccountId,
    pub session: SessionId,
    pub refresh: String,
    access: String,
}

impl Device {
    /// What a sign-in or a refresh brought.
    fn take(world: &World, asked: At, body: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("{body}")).to_owned();
        let device = Self {
            account: text(&body["session"]["account_id"]).parse().unwrap(),
            session: text(&body["session"]["id"]).parse().unwrap(),
            refresh: text(&body["refresh_token"]),
            access: text(&body["access_token"]),
        };
        let mut seen = world.seen.lock().unwrap();
        let (account, session) = (device.account, device.session);
        seen.history.tokens.push(Token { account, session, asked, got: now() });
        seen.texts.push(device.access.clone());
        device
    }
}

/// Somebody with up to three devices.
pub async fn person(world: World, email: String, mut dice: Dice) -> Vec<Device> {
    let mut devices: Vec<Device> = Vec::new();
    while !world.over.load(Ordering::SeqCst) {
        tokio::time::sleep(Duration::from_millis(20 + dice.below(120))).await;
        if devices.is_empty() || devices.len() < 3 && dice.below(4) == 0 {
            let asked = now();
            let body = json!({ "identifier": email, "password": PASSWORD });
            match world.call(&mut dice, "POST", "/v1/sessions", None, Some(&body)).await {
                Ok((201, body)) => {
                    world.count("sign-ins");
                    devices.push(Device::take(&world, asked, &body));
                }
                // What was not answered in time counts against the budget for guesses.
                Ok((401, body)) if body["code"] == "invalid_credentials" => world.count("sign-ins throttled"),
                Ok((403, body)) if body["code"] == "account_blocked" => {
                    world.count("sign-ins of the blocked");
                    tokio::time::sleep(Duration::from_millis(700)).await;
                }
                // A block, or an end of all that was not answered, came between the password and the commit.
                Ok((409, body)) if body["code"] == "conflict" => world.count("sign-ins overtaken by an end"),
                Ok(other) => panic!("a sign-in: {other:?}"),
                Err(_) => {}
            }
            continue;
        }
        let which = dice.index(devices.len());
        match dice.below(12) {
            0 => end(&world, &mut dice, &mut devices, which, false).await,
            1 if dice.below(3) == 0 => end(&world, &mut dice, &mut devices, which, true).await,
            _ => refresh(&world, &mut dice, &mut devices, which).await,
        }
    }
    devices
}

async fn refresh(world: &World, dice: &mut Dice, devices: &mut Vec<Device>, which: usize) {
    let asked = now();
    let body = json!({ "refresh_token": devices[which].refresh });
    match world.call(dice, "POST", "/v1/sessions/refresh", None, Some(&body)).await {
        Ok((200, body)) => {
            world.count("refreshes");
            devices[which] = Device::take(world, asked, &body);
        }
        Ok((401 | 403, body)) => {
            let Device { account, session, .. } = devices.remove(which);
            let mut seen = world.seen.lock().unwrap();
            seen.refused.push((session, body["code"].to_string()));
            if body["code"] == "refresh_reused" {
                *seen.counts.entry("taken for theft").or_default() += 1;
            }
            seen.history.lost.push(Lost { account, session, answered: now() });
        }
        Ok(other) => panic!("a refresh: {other:?}"),
        Err(No::NotNow) => {}
        Err(No::Answer) => {
            let session = devices[which].session;
            world.seen.lock().unwrap().history.unanswered.push(Unanswered { session, asked });
        }
    }
}

/// A session, or all of the account, is ended. The answer may be lost, and then nobody knows.
async fn end(world: &World, dice: &mut Dice, devices: &mut Vec<Device>, which: usize, all: bool) {
    let Device { account, session, access, .. } = &devices[which];
    let (scope, path) = match all {
        true => (Scope::Account(*account), "/v1/me/sessions?wait=enforced&timeout_ms=3000".to_owned()),
        false => (Scope::Session(*session), format!("/v1/me/sessions/{session}?wait=enforced&timeout_ms=3000")),
    };
    // Written down before it is asked for: it may come true without an answer.
    let at = {
        let mut seen = world.seen.lock().unwrap();
        seen.history.ends.push(End { scope, except: None, asked: now(), acknowledged: None, complete: None });
        seen.history.ends.len() - 1
    };
    let answer = world.call(dice, "DELETE", &path, Some(access), None).await;
    if let Ok((200, body)) = &answer {
        let mut seen = world.seen.lock().unwrap();
        let end = &mut seen.history.ends[at];
        end.acknowledged = Some(now());
        end.complete = (body["enforcement"]["complete"] == true).then(now);
        // By word alone: with the bound over it may be true by time, and with somebody lapsed it is.
        let told = &body["enforcement"];
        let in_time = told["took_ms"].as_u64().is_some_and(|ms| ms < BOUND_MS);
        let by_word = told["complete"] == true && told["lapsed"] == 0 && in_time;
        *seen.counts.entry(if by_word { "ends acknowledged everywhere" } else { "ends true by time" }).or_default() +=
            1;
    } else {
        world.count("ends without an answer");
    }
    match all {
        true => devices.clear(),
        false => drop(devices.remove(which)),
    }
}

/// Blocks one after another for a while.
pub async fn administrator(world: World, accounts: Vec<AccountId>, mut dice: Dice) {
    let mut token = None;
    while !world.over.load(Ordering::SeqCst) {
        tokio::time::sleep(Duration::from_millis(600 + dice.below(1_500))).await;
        let Some(access) = token.clone() else {
            let body = json!({ "identifier": ADMIN.0, "password": ADMIN.1 });
            let answer = world.call(&mut dice, "POST", "/v1/sessions", None, Some(&body)).await;
            token = answer.ok().and_then(|(_, body)| Some(body["access_token"].as_str()?.to_owned()));
            continue;
        };
        let account = accounts[dice.index(accounts.len())];
        let path = format!("/v1/admin/accounts/{account}/block?wait=enforced&timeout_ms=3000");
        let at = {
            let mut seen = world.seen.lock().unwrap();
            let (scope, asked) = (Scope::Account(account), now());
            seen.history.ends.push(End { scope, except: None, asked, acknowledged: None, complete: None });
            seen.history.ends.len() - 1
        };
        let body = json!({ "reason": "for a while" });
        let blocked = match world.call(&mut dice, "POST", &path, Some(&access), Some(&body)).await {
            Ok((200, body)) => {
                let mut seen = world.seen.lock().unwrap();
                let end = &mut seen.history.ends[at];
                end.acknowledged = Some(now());
                end.complete = (body["enforcement"]["complete"] == true).then(now);
                *seen.counts.entry("blocks").or_default() += 1;
                seen.history.blocked.push(Blocked { account, from: now(), until: None });
                Some(seen.history.blocked.len() - 1)
            }
            Ok((401, _)) => {
                token = None;
                None
            }
            Ok(other) => panic!("a block: {other:?}"),
            Err(_) => None,
        };
        tokio::time::sleep(Duration::from_millis(300 + dice.below(1_500))).await;
        // Whatever came of it: nobody stays blocked.
        if let Some(at) = blocked {
            world.seen.lock().unwrap().history.blocked[at].until = Some(now());
        }
        token = unblock(&world, account, token.unwrap_or(access)).await;
        world.count("blocks lifted");
    }
}

/// Until it is done; the token that did it.
async fn unblock(world: &World, account: AccountId, mut token: String) -> Option<String> {
    loop {
        let path = format!("/v1/admin/accounts/{account}/unblock");
        match insist(world.nodes[0], "POST", &path, Some(&token), None).await {
            answer if answer.status == 200 => return Some(token),
            answer if answer.status == 401 => {
                let body = json!({ "identifier": ADMIN.0, "password": ADMIN.1 });
                let answer = insist(world.nodes[0], "POST", "/v1/sessions", None, Some(&body)).await;
                token = answer.text("access_token").to_owned();
            }
            answer => panic!("a block is lifted: {answer:?}"),
        }
    }
}

/// Judges one token after another: young ones, and as many of all that there ever were.
pub async fn service(world: World, verifier: Arc<Verifier>, number: u32, mut dice: Dice) {
    while !world.over.load(Ordering::SeqCst) {
        tokio::time::sleep(Duration::from_millis(5 + dice.below(20))).await;
        let (token, text) = {
            let seen = world.seen.lock().unwrap();
            let len = seen.texts.len();
            if len == 0 {
                continue;
            }
            let token = match dice.below(2) {
                0 => len - 1 - dice.index(len.min(60)),
                _ => dice.index(len),
            };
            (token, seen.texts[token].clone())
        };
        let began = now();
        let said = match verifier.verify(&text, &Rule::default()).await {
            Ok(_) => Said::Accepted,
            Err(refusal) if refusal.code() == Code::TokenRevoked => Said::Revoked,
            Err(refusal) => match refusal.code() {
                Code::NotFresh | Code::TokenExpired | Code::TokenStale => Said::NotNow,
                other => panic!("service {number}: a token is refused as {}: {refusal:?}", other.as_str()),
            },
        };
        world.seen.lock().unwrap().history.verdicts.push(Verdict { verifier: number, token, began, said });
    }
}
