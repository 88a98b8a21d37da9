//! A server that asks one rule about suspicious activity, which writes down what it was asked about.
use portcullis_domain::risk::{Hit, Judge, Outcome, Signals, Verdict};
use portcullis_testkit::TestServer;
use std::sync::{Arc, Mutex};

/// What a rule was asked about.
pub type Asked = Arc<Mutex<Vec<Signals>>>;

struct Rule {
    /// The only act that it is about, if there is one.
    act: Option<&'static str>,
    when: fn(&Signals) -> bool,
    then: Outcome,
    asked: Asked,
}

impl Judge for Rule {
    fn judge(&self, signals: &Signals) -> Verdict {
        let about = self.act.is_none_or(|act| signals.act == act);
        if about {
            self.asked.lock().unwrap().push(signals.clone());
        }
        let hit = || Hit {
            rule: "a-rule".into(),
            outcomes: vec![self.then],
            reason: "it did not look like you".into(),
            shadow: false,
        };
        let holds = about && (self.when)(signals);
        Verdict { version: self.version().into(), hits: holds.then(hit).into_iter().collect() }
    }
    fn version(&self) -> &str {
        "test 7"
    }
}

/// Has this rule asked about everything from now on.
pub fn rule(server: &TestServer, when: fn(&Signals) -> bool, then: Outcome) -> Asked {
    set(server, None, when, then)
}

/// The same about acts of this kind.
pub fn rule_about(server: &TestServer, act: &'static str, when: fn(&Signals) -> bool, then: Outcome) -> Asked {
    set(server, Some(act), when, then)
}

fn set(server: &TestServer, act: Option<&'static str>, when: fn(&Signals) -> bool, then: Outcome) -> Asked {
    let asked = Asked::default();
    server.app.set_judge(Some(Box::new(Rule { act, when, then, asked: asked.clone() })));
    asked
}
