//! The tour: the whole story, played over real HTTP, and checked. Nothing is taken on trust: each step says beforehand who
//! must be accepted and who refused with which code, and polls the protected service to see it happen.
use super::watch::{Seen, Stream, Watch};
use super::{Place, url};
use crate::cli::out::{self, Paint};
use crate::client::{Answer, Client, Target};
use http::{Method, Uri};
use portcullis_app::real;
use portcullis_wire::SecretString;
use serde_json::{Value, json};
use std::time::Duration;

/// How long after a refusal (or an acceptance) it is still watched whether it stays so.
const LINGER: Duration = Duration::from_millis(60);
/// Accepted calls of each device before anything is done to it.
const WARM: u64 = 5;

/// Somebody with a device: what they hold.
struct Device {
    name: &'static str,
    session: String,
    access: SecretString,
    refresh: SecretString,
}

/// What must come of a device in a step.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Must {
    Pass,
    Fall(&'static str),
}

/// A revoking call of a step.
struct Call<'a> {
    method: Method,
    path: String,
    token: &'a SecretString,
    body: Option<Value>,
}

/// The tour under way.
pub struct Tour<'a> {
    place: &'a Place,
    server: Client,
    api_client: Client,
    api: Uri,
    paint: Paint,
    quiet: bool,
    step: u32,
    passed: u64,
    refused: u64,
    bystander: u64,
    differences: Vec<String>,
    report: Vec<Value>,
}

/// What the tour came to.
pub struct Report {
    /// What differed from what should be; empty when all is well.
    pub differences: Vec<String>,
    /// For programs.
    pub json: Value,
}

/// Plays it. `quiet`: nothing is printed.
pub async fn play(place: &Place, quiet: bool) -> Report {
    let mut tour = Tour {
        place,
        server: Client::new(Target::Url(place.server.clone())),
        api_client: Client::new(Target::Url(place.api.clone())),
        api: place.api.clone(),
        paint: Paint::stdout(),
        quiet,
        step: 0,
        passed: 0,
        refused: 0,
        bystander: 0,
        differences: vec![],
        report: vec![],
    };
    if let Err(why) = tour.story().await {
        tour.differ(why);
    }
    tour.close()
}

impl Tour<'_> {
    /// The story. An error is what makes going on pointless.
    async fn story(&mut self) -> Result<(), String> {
        let place = self.place;
        self.say(&format!(
            "The server is {}, the protected service {}. The service verifies tokens offline: it asks nobody when it is called.",
            url(&place.server),
            url(&place.api)
        ));
        self.title("Three devices and a bystander sign in; each calls GET /whoami");
        let laptop = self.sign_in("laptop", &place.account).await?;
        let phone = self.sign_in("phone", &place.account).await?;
        let tablet = self.sign_in("tablet", &place.account).await?;
        let bystander = self.sign_in(BYSTANDER, &place.bystander).await?;
        let admin = self.sign_in("admin", &place.admin).await?;
        for device in [&laptop, &phone, &tablet, &bystander] {
            self.whoami(device).await;
        }

        self.title("The laptop ends the phone's session");
        let end_phone = call(Method::DELETE, format!("/v1/me/sessions/{}", phone.session), &laptop.access);
        let fate = [(&phone, FALLEN), (&laptop, Must::Pass), (&tablet, Must::Pass), (&bystander, Must::Pass)];
        self.revoke(end_phone, &fate, None).await?;

        self.title("The laptop logs the account out everywhere, and waits until that is true everywhere");
        let everywhere = call_to(Method::DELETE, "/v1/me/sessions?wait=enforced", &laptop.access);
        let fate = [(&laptop, FALLEN), (&tablet, FALLEN), (&bystander, Must::Pass)];
        self.revoke(everywhere, &fate, None).await?;
        self.refresh_is_refused(&laptop).await;

        self.title("The laptop signs in again and opens a stream");
        let laptop_again = self.sign_in("laptop", &place.account).await?;
        self.whoami(&laptop_again).await;
        let stream = Stream::open(&self.api, laptop_again.access.clone());
        self.wait_for_ticks(&stream).await?;

        self.title("An administrator blocks the account");
        let id = &place.account.id;
        let mut block = call(Method::POST, format!("/v1/admin/accounts/{id}/block"), &admin.access);
        block.body = Some(json!({ "reason": "shown by the tour" }));
        self.revoke(block, &[(&laptop_again, FALLEN), (&bystander, Must::Pass)], Some(&stream)).await?;
        self.sign_in_is_refused(&place.account, "right password", place.account.password, 403, "account_blocked").await;
        self.sign_in_is_refused(&place.account, "wrong password", "not the password", 401, "invalid_credentials").await;

        self.title("The administrator lifts the block: it brings nothing back");
        let unblock = json!({ "reason": "shown by the tour" });
        let path = format!("/v1/admin/accounts/{id}/unblock");
        let answer = self.server.call_as(Method::POST, &path, Some(&admin.access), Some(&unblock)).await;
        self.expect("unblock", answer, 200, "").await;
        for device in [&laptop_again, &tablet, &phone] {
            self.stays_refused(device).await;
        }
        self.refresh_is_refused(&laptop_again).await;
        let anew = self.sign_in("laptop", &place.account).await?;
        self.whoami(&anew).await;
        self.whoami(&bystander).await;
        Ok(())
    }

    async fn sign_in(&mut self, name: &'static str, who: &super::Person) -> Result<Device, String> {
        let body = json!({ "identifier": who.email, "password": who.password, "device_name": name });
        let answer = self.server.call(Method::POST, "/v1/sessions", Some(&body)).await.map_err(|error| error.0)?;
        if answer.status != 201 {
            return Err(format!("{name}: the sign-in was answered {} {}", answer.status, answer.code()));
        }
        let session = answer.body.pointer("/session/id").and_then(Value::as_str).unwrap_or_default().to_owned();
        let secret = |member| SecretString::new(answer.text(member));
        Ok(Device { name, session, access: secret("access_token"), refresh: secret("refresh_token") })
    }

    /// `GET /whoami` must name the device's own session.
    async fn whoami(&mut self, device: &Device) {
        let answer = self.api_client.call_as(Method::GET, "/whoami", Some(&device.access), None).await;
        match answer {
            Ok(answer) if answer.status == 200 && answer.text("sid") == device.session => {
                self.passed += 1;
                self.line(device.name, true, "", &format!("GET /whoami 200, session {}", device.session));
            }
            Ok(answer) if answer.status == 200 => {
                self.differ(format!("{}: GET /whoami named another session", device.name))
            }
            Ok(answer) => {
                self.line(device.name, false, answer.code(), "GET /whoami");
                self.differ(format!(
                    "{}: GET /whoami answered {} {}, not 200",
                    device.name,
                    answer.status,
                    answer.code()
                ));
            }
            Err(error) => self.differ(format!("{}: {}", device.name, error.0)),
        }
    }

    async fn stays_refused(&mut self, device: &Device) {
        let answer = self.api_client.call_as(Method::GET, "/whoami", Some(&device.access), None).await;
        self.expect(&format!("{}'s old token", device.name), answer, 401, "token_revoked").await;
    }

    async fn refresh_is_refused(&mut self, device: &Device) {
        let body = json!({ "refresh_token": device.refresh.expose() });
        let answer = self.server.call(Method::POST, "/v1/sessions/refresh", Some(&body)).await;
        self.expect(&format!("{}'s refresh token", device.name), answer, 401, "session_ended").await;
    }

    async fn sign_in_is_refused(&mut self, who: &super::Person, how: &str, password: &str, status: u16, code: &str) {
        let body = json!({ "identifier": who.email, "password": password });
        let answer = self.server.call(Method::POST, "/v1/sessions", Some(&body)).await;
        self.expect(&format!("sign-in, {how}"), answer, status, code).await;
    }

    /// One answer of the server or the service that must be exactly this.
    async fn expect(
        &mut self,
        what: &str,
        answer: Result<Answer, crate::client::Unreachable>,
        status: u16,
        code: &str,
    ) {
        match answer {
            Ok(answer) if answer.status == status && answer.code() == code => {
                let accepted = (200..300).contains(&status);
                let count = if accepted { &mut self.passed } else { &mut self.refused };
                *count += 1;
                self.line(what, accepted, code, "");
            }
            Ok(answer) => {
                let (got, with) = (answer.status, answer.code());
                self.line(what, answer.is_success(), with, "");
                self.differ(format!("{what}: answered {got} {with}, not {status} {code}"));
            }
            Err(error) => self.differ(format!("{what}: {}", error.0)),
        }
    }

    async fn wait_for_ticks(&mut self, stream: &Stream) -> Result<(), String> {
        for _ in 0..1000 {
            let state = stream.state();
            if let Some(why) = state.refused {
                return Err(format!("the stream could not be opened: {why}"));
            }
            if state.ticks >= 2 {
                self.passed += 1;
                self.line("stream", true, "", "GET /stream ticks");
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Err("the stream did not tick within 10 s".into())
    }

    /// Takes access away while everybody polls the service, and sees who falls and how fast.
    async fn revoke(
        &mut self,
        call: Call<'_>,
        fate: &[(&Device, Must)],
        stream: Option<&Stream>,
    ) -> Result<(), String> {
        let watches: Vec<Watch> =
            fate.iter().map(|(device, _)| Watch::start(&self.api, device.access.clone())).collect();
        let limit = self.place.bound + Duration::from_secs(1);
        until(limit, || watches.iter().all(|watch| watch.so_far().accepted >= WARM || watch.so_far().odd.is_some()))
            .await;
        let began_us = real::mono_us();
        let answer = self.server.call_as(call.method.clone(), &call.path, Some(call.token), call.body.as_ref()).await;
        let answered_us = real::mono_us();
        let answer = answer.map_err(|error| error.0)?;
        let done = || {
            let fallen = |(watch, (_, must)): (&Watch, &(&Device, Must))| {
                *must == Must::Pass || watch.so_far().first_refused.is_some()
            };
            watches.iter().zip(fate).all(fallen) && stream.is_none_or(|stream| stream.state().closed)
        };
        until(limit, done).await;
        tokio::time::sleep(LINGER).await;
        let mut seen = Vec::new();
        for watch in watches {
            seen.push(watch.finish().await);
        }
        if !answer.is_success() {
            return Err(format!("{} {} answered {} {}", call.method, call.path, answer.status, answer.code()));
        }
        self.told(&call, &answer, began_us, answered_us);
        let waited = call.path.contains("wait=enforced");
        for ((device, must), seen) in fate.iter().zip(&seen) {
            self.judge(device.name, *must, seen, (began_us, answered_us), waited);
        }
        if let Some(stream) = stream {
            self.judge_stream(stream, began_us, answered_us);
        }
        Ok(())
    }

    /// What the revoking call itself said.
    fn told(&mut self, call: &Call<'_>, answer: &Answer, began_us: i64, answered_us: i64) {
        let number = |pointer: &str| answer.body.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
        let complete = answer.body.pointer("/enforcement/complete").and_then(Value::as_bool).unwrap_or(false);
        let mut words = format!("answered after {}: rev {}", ms(answered_us - began_us), number("/rev"));
        if call.path.contains("wait=enforced") {
            words.push_str(&format!(
                ", {} of {} verifiers confirmed within {} ms of the commit",
                number("/enforcement/acknowledged"),
                number("/enforcement/acknowledged") + number("/enforcement/pending") + number("/enforcement/lapsed"),
                number("/enforcement/took_ms")
            ));
            if !complete || number("/enforcement/acknowledged") == 0 {
                self.differ(format!("{} was answered without every verifier's acknowledgement", call.path));
            }
        }
        let head = self.paint.dim(&format!("{} {}", call.method, call.path));
        self.say(&format!("   {head}\n   {words}"));
    }

    fn judge(&mut self, name: &str, must: Must, seen: &Seen, (began_us, answered_us): (i64, i64), waited: bool) {
        self.passed += seen.accepted;
        self.refused += seen.refused;
        if name == BYSTANDER {
            self.bystander += seen.accepted;
        }
        if let Some(odd) = &seen.odd {
            self.differ(format!("{name}: {odd}"));
        }
        if seen.accepted < WARM {
            self.differ(format!("{name}: only {} calls were accepted beforehand", seen.accepted));
        }
        match (must, &seen.first_refused) {
            (Must::Pass, None) => self.line(name, true, "", &format!("all {} calls meanwhile", seen.accepted)),
            (Must::Pass, Some((_, code))) => {
                self.line(name, false, code, "");
                self.differ(format!("{name}: refused with {code}, but nothing was done to it"));
            }
            (Must::Fall(_), None) => {
                self.line(name, true, "", "still");
                self.differ(format!("{name}: still accepted {} after the answer", ms(real::mono_us() - answered_us)));
            }
            (Must::Fall(wanted), Some((at_us, code))) => {
                self.line(name, false, code, &after(*at_us, began_us, answered_us));
                self.report_ms(name, code, *at_us, began_us, answered_us);
                if code != wanted {
                    self.differ(format!("{name}: refused with {code}, not with {wanted}"));
                }
                if seen.last_accepted_sent_us > answered_us + self.bound_us() {
                    self.differ(format!("{name}: accepted a call that was sent later than the bound"));
                }
                if *at_us < began_us {
                    self.differ(format!("{name}: refused before anything was done"));
                }
                if waited && seen.last_accepted_sent_us > answered_us {
                    self.differ(format!(
                        "{name}: accepted a call that was sent after it was said to be enforced everywhere"
                    ));
                }
            }
        }
    }

    fn judge_stream(&mut self, stream: &Stream, began_us: i64, answered_us: i64) {
        let state = stream.state();
        match state.ended_us {
            Some(at_us) if state.closed => {
                self.refused += 1;
                self.tell("stream", &self.paint.red("closed  "), "event: ended", &after(at_us, began_us, answered_us));
                self.report_ms("stream", "ended", at_us, began_us, answered_us);
                if at_us > answered_us + self.bound_us() {
                    self.differ("stream: it was closed later than the bound".into());
                }
            }
            Some(_) => self.differ("stream: it said `ended` but stayed open".into()),
            None if state.closed => self.differ("stream: it was closed without `event: ended`".into()),
            None => self.differ("stream: it is still open".into()),
        }
    }

    fn bound_us(&self) -> i64 {
        i64::try_from(self.place.bound.as_micros()).unwrap_or(i64::MAX)
    }

    fn report_ms(&mut self, name: &str, code: &str, at_us: i64, began_us: i64, answered_us: i64) {
        let tenths = |us: i64| f64::from(i32::try_from(us / 100).unwrap_or(i32::MAX)) / 10.0;
        self.report.push(json!({
            "step": self.step, "who": name, "code": code,
            "after_call_ms": tenths(at_us - began_us), "after_answer_ms": tenths(at_us - answered_us),
        }));
    }

    fn title(&mut self, text: &str) {
        self.step += 1;
        let line = format!("\n{} {}", self.paint.bold(&format!("{}.", self.step)), self.paint.bold(text));
        self.say(&line);
    }

    fn line(&self, name: &str, accepted: bool, code: &str, rest: &str) {
        let verdict = if accepted { self.paint.green("accepted") } else { self.paint.red("refused ") };
        self.tell(name, &verdict, code, rest);
    }

    fn tell(&self, name: &str, verdict: &str, code: &str, rest: &str) {
        let code = if code.is_empty() { String::new() } else { format!("{code:<20}") };
        self.say(&format!("   {name:<24} {verdict}  {code}{rest}"));
    }

    fn say(&self, text: &str) {
        if !self.quiet {
            out::line(text.trim_end());
        }
    }

    fn differ(&mut self, what: String) {
        let mark = self.paint.red("differs:");
        self.say(&format!("   {mark} {what}"));
        self.differences.push(what);
    }

    fn close(self) -> Report {
        let ok = self.differences.is_empty();
        let counts = format!("{} calls accepted and {} refused", self.passed, self.refused);
        if ok {
            let well = self.paint.green("The tour went well:");
            let bystander = self.bystander;
            self.say(&format!(
                "\n{well} {counts}, each as it should be; {bystander} calls of the bystander, all accepted."
            ));
        } else {
            self.say(&format!("\n{} {counts}, but:", self.paint.red("The tour did not go as it should:")));
            self.differences.iter().for_each(|what| self.say(&format!("   {what}")));
        }
        let json = json!({
            "ok": ok, "accepted": self.passed, "refused": self.refused, "bystander": self.bystander,
            "differences": self.differences, "revocations": self.report,
        });
        Report { differences: self.differences, json }
    }
}

const BYSTANDER: &str = "bystander";
const FALLEN: Must = Must::Fall("token_revoked");

fn call(method: Method, path: String, token: &SecretString) -> Call<'_> {
    Call { method, path, token, body: None }
}

fn call_to<'a>(method: Method, path: &str, token: &'a SecretString) -> Call<'a> {
    call(method, path.to_owned(), token)
}

/// Looks every millisecond until it is so, at most so long.
async fn until(limit: Duration, so: impl Fn() -> bool) {
    let _ = tokio::time::timeout(limit, async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

fn ms(us: i64) -> String {
    format!("{}.{} ms", us / 1000, us.rem_euclid(1000) / 100)
}

/// When the first refusal had arrived, seen from the call.
fn after(at_us: i64, began_us: i64, answered_us: i64) -> String {
    let since_call = format!("{} after the call began", ms(at_us - began_us));
    if at_us <= answered_us {
        format!("{since_call}, before it was answered")
    } else {
        format!("{since_call}, {} after it was answered", ms(at_us - answered_us))
    }
}
