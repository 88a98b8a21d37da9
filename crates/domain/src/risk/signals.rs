//! The signals: plain numbers, yes or no, and words. One table says what there is, of which kind it is and what it means; the policy's
//! language, its checks and the documentation are made from it.
use alloc::borrow::Cow;
use serde::Serialize;

/// The kind of a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Yes or no.
    Bool,
    /// A whole number.
    Int,
    /// A word.
    Text,
}

/// The value of a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word<'a> {
    /// Yes or no.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A word.
    Text(&'a str),
}

/// A line of the table.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// How rules call it.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// What it means.
    pub doc: &'static str,
}

macro_rules! of {
    (Bool) => { bool };
    (Int) => { i64 };
    (Text) => { Cow<'static, str> };
}
macro_rules! word {
    (Bool $value:expr) => {
        Word::Bool($value)
    };
    (Int $value:expr) => {
        Word::Int($value)
    };
    (Text $value:expr) => {
        Word::Text(&$value)
    };
}

macro_rules! table {
    ($($field:ident $kind:ident $name:literal $doc:literal)*) => {
        /// What an act says, as rules see it ([`FIELDS`] has the names). Numbers that do not apply are -1, words that are not known empty.
        #[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
        pub struct Signals {
            $(#[doc = $doc] #[serde(rename = $name)] pub $field: of!($kind),)*
        }

        /// All signals. Their places here are what [`Signals::get`] takes.
        pub const FIELDS: &[Field] = &[$(Field { name: $name, kind: Kind::$kind, doc: $doc },)*];

        impl Signals {
            /// All values, in the order of [`FIELDS`].
            pub fn words(&self) -> [Word<'_>; FIELDS.len()] {
                [$(word!($kind self.$field),)*]
            }
        }
    };
}

table! {
    act Text "act.kind" "What happened: `sign_up`, `sign_in`, `refresh`, `prove`, `change`, `recover`, `sighting` or `external`."
    what Text "act.what" "More about it. Of a sign-in by another provider `provider`; of a refresh `rotated`, `again`, `skipped`, `other_device` or `theft`; of a change `password`, `email`, `factor`, `app` or `key`; of a recovery `asked`, `done` or `denied`; of what comes from outside `credential_leaked`, `device_lost` or `fraud`."
    ok Bool "act.ok" "Whether what was shown was right. Only a proof can be wrong: wrong passwords at a sign-in are counted by the throttle."
    country Text "from.country" "The country by the database of places, ISO 3166-1 alpha-2; empty where nothing is known."
    asn Int "from.asn" "The provider's autonomous system; 0 where nothing is known."
    agent Text "from.agent" "Browser and system, such as `firefox/linux`; a hint that anybody can set."
    first Bool "signal.first" "Nothing is remembered of the account yet. Then nothing is new to it either."
    known_device Bool "signal.known_device" "A sign-in that showed the mark of an earlier one to this account."
    new_device Bool "signal.new_device" "A sign-in without that mark, to an account of which something is remembered."
    new_agent Bool "signal.new_agent" "The account was never seen with this browser and system."
    new_network Bool "signal.new_network" "The account was never seen in this network (a /24 or /56), or for the first time less than an hour ago."
    new_provider Bool "signal.new_provider" "The provider is known, and the account was never seen there before the last hour."
    new_country Bool "signal.new_country" "The country is known, and the account was never seen there before the last hour."
    km Int "signal.km" "Kilometres from where the session was last, at a sign-in from where the account was last: as far as the database is sure of. 0 where it is not."
    kmh Int "signal.kmh" "What speed that was, in km/h."
    impossible_travel Bool "signal.impossible_travel" "More than 500 km, faster than 1000 km/h, to a network that is new to the account."
    moved Bool "signal.moved" "The session is in another network than it was last."
    other_browser Bool "signal.other_browser" "Browser and system are not those that the session was made with."
    other_program Bool "signal.other_program" "The browser, or the program, is not the one that the session was made with, whatever the system."
    other_system Bool "signal.other_system" "The system is not the one that the session was made with, and no page that was asked for as computers get it explains that: Android as Linux, an iPhone or iPad as macOS or as each other."
    other_machine Bool "signal.other_machine" "The same, and one computer with two systems that share what a browser keeps (Windows and Linux) does not explain it either."
    away Bool "signal.away" "The session is in a network that was new to the account when it went there, less than a day ago."
    turned Bool "signal.turned" "What the session was made with, a phone, television or console, is a script now, another kind of those, or another program on a computer, in whatever network: nothing becomes that by itself. Or a browser that locks its cookies to the system (all but Firefox and Safari) is on another one."
    may_have_turned Bool "signal.may_have_turned" "What a browser on a computer had is shown by a script or on another system of computers; what a phone's browser had, by the same one on a computer; or what a browser had, by another one on the same system. Its owner may have done that."
    may_be_update Bool "signal.may_be_update" "The program is not the one that the session was made with, and an app's update may have named it so, or another part of the app: neither is what scripts are written with, one at most is a browser, on the same kind of phone, and both may be on one system."
    unlocked Bool "signal.unlocked" "The same browser on another system, as `other_system` says, and one that locks its cookies to the system (Chrome, Edge, Opera, Vivaldi): one computer with two systems has them twice."
    hops Int "signal.hops" "Networks that were new to the account and to which the session moved within the last 30 minutes; where providers are known, one of each counts."
    turns Int "signal.turns" "How often within 10 minutes the session went back to the network that it had been in before."
    echoes Int "signal.echoes" "How often in a row, within an hour, a refresh was repeated within seconds from a network that is new to the account: always the same two networks, in the same order."
    echoes_after_s Int "signal.echoes_after_s" "Seconds from the session's making to its first repetition from another network, new or not; -1: there was none."
    forks Int "signal.forks" "How often in a row, within an hour, a refresh token was used in a network that is new to the account, and what that brought was never used, since two minutes later or more the same token came from one and the same other network."
    fork_days Int "signal.fork_days" "On how many days of two weeks such a thing happened, each time in a country other than that of where it went on, and between those days nothing that came from there was used elsewhere."
    fork_abroad_s Int "signal.fork_abroad_s" "How long ago the session had gone to a country that was new to the account, when what that brought was never used and the same token comes from another country, where the account is at home; -1: no such thing."
    echoed Int "signal.echoed" "How often in a row, within an hour, a refresh from a network that is new to the account was repeated within seconds from a network that the account knows: always the same two networks, and nothing of the session from a third one, or late, in between."
    older_build Bool "signal.older_build" "The browser's version is lower than the session showed before; or the version of a phone's system that an app says, or another model of phone, when the session was last seen less than a day ago. No update does that."
    older_browser Bool "signal.older_browser" "The browser's version is lower than the session showed before."
    older_system Bool "signal.older_system" "The version of the phone's system that an app says is lower, by its first number, than the session showed before, of the same model, or of whichever when the session was last seen less than a day ago."
    late_retries Int "signal.late_retries" "Late repetitions of a refresh in this session within a day."
    late_networks Int "signal.late_networks" "From how many networks those came."
    other_device_tries Int "signal.other_device_tries" "How often within a day a token of this session was refused since another kind of device showed it."
    session_age_s Int "signal.session_age_s" "Seconds since the session was made."
    session_new_device Bool "signal.session_new_device" "The session was made by a sign-in without the mark of an earlier one."
    session_new_network Bool "signal.session_new_network" "The session was made in a network that was new to the account."
    session_new_country Bool "signal.session_new_country" "The session was made in a country that was new to the account."
    session_breached Bool "signal.session_breached" "The session was made with a password that is in a list of stolen ones."
    at_once Bool "signal.at_once" "Services saw the session's access token in this network, then in another one, and now in this one again, within 10 minutes."
    replaced Bool "signal.replaced" "Since this session was last seen to move, its kind of device has signed in anew where the session was made, showing the mark of an earlier sign-in."
    wrong_proofs Int "signal.wrong_proofs" "Wrong passwords in this session within an hour, this one included."
    sign_ins Int "signal.sign_ins" "Sign-ins to the account within 10 minutes, this one included."
    guesses_account Int "signal.guesses_account" "Wrong passwords outstanding at this account, by strangers; one is forgotten each 10 minutes."
    guesses_prefix Int "signal.guesses_prefix" "Wrong passwords outstanding from this address prefix at all accounts; ten are forgotten each minute."
    refused Bool "signal.refused" "Within a day a rule refused a sign-in with the right password, and that was not changed since. False of a sign-in by another provider."
    breached Bool "signal.breached" "The password that was given is in a list of stolen ones."
    changes Int "signal.changes" "Credentials changed and applications connected within an hour, this one included."
    resets_asked Int "signal.resets_asked" "Mails for a reset that were asked for within an hour, this one included."
    resets_done Int "signal.resets_done" "Resets that were done within a day, this one included."
    reset_age_s Int "signal.reset_age_s" "Seconds since the last reset was done."
    reset_new_network Bool "signal.reset_new_network" "That reset came from a network that was new to the account."
    reset_new_country Bool "signal.reset_new_country" "That reset came from a country that was new to the account."
    leaked Bool "signal.leaked" "Somebody outside said within 90 days that the password is in a list of stolen ones, and it was not changed since. False of a sign-in by another provider."
    fraud Bool "signal.fraud" "Somebody outside told of fraud within 7 days."
    lost Bool "signal.lost" "Somebody outside said within 30 days that a device was lost."
    lost_before Bool "signal.lost_before" "That was after this session was made: it may be the lost device's."
}

impl Signals {
    /// An act of which nothing is to be said: what a known device does every day.
    pub fn calm(act: &'static str, what: &'static str) -> Self {
        Self {
            act: act.into(),
            what: what.into(),
            ok: true,
            agent: "firefox/linux".into(),
            known_device: act == "sign_in",
            session_age_s: if act == "sign_in" || act == "sign_up" { 0 } else { 3600 },
            sign_ins: i64::from(act == "sign_in" || act == "sign_up"),
            changes: i64::from(act == "change"),
            resets_asked: i64::from(what == "asked"),
            resets_done: i64::from(what == "done"),
            echoes_after_s: -1,
            fork_abroad_s: -1,
            reset_age_s: if what == "done" { 0 } else { -1 },
            ..Self::default()
        }
    }

    /// The value of a signal by its name.
    pub fn get(&self, name: &str) -> Option<Word<'_>> {
        let at = FIELDS.iter().position(|field| field.name == name)?;
        self.words().get(at).copied()
    }
}
