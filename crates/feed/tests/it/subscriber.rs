use crate::support::{Chance, LOG, end, ses};
use portcullis_feed::fleet::Instance;
use portcullis_feed::publisher::{Limits, Resume};
use portcullis_feed::subscriber::{Action, Ask, Config, Frame, Identity, Input, Now, Trouble};
use portcullis_feed::{Fleet, Mono, Policies, Publisher, Subscriber};
use portcullis_wire::frame::{AckAnswer, Entries, Hello, Keys, Snapshot, Tail};
use portcullis_wire::jws::Jwk;
use portcullis_wire::{Chain, ClientId, Entry, Epoch, InstanceId, KeyId, LogId, Rev, SecretString, Target, Time, Verb};

const B: i64 = 5000;

fn now(ms: i64) -> Now {
    Now { mono: Mono(ms), wall: Time(1_000_000 + ms), chance: ms as u64 }
}
fn hello(p: &Publisher) -> Hello {
    Hello {
        v: 1,
        log: p.log(),
        instance: InstanceId::from_bits(1),
        instance_secret: SecretString::new("s"),
        epoch: p.epoch(),
        head: p.head(),
        chain: p.chain(),
        bound_ms: B as u64,
        max_life_s: 3600,
    }
}
fn grow(p: &mut Publisher, n: u64) -> Vec<Entry> {
    let entries: Vec<Entry> = (1..=n).map(|i| end(p.head().0 + i, Target::Session(ses(p.head().0 + i)))).collect();
    let chain = entries.iter().fold(p.chain(), Chain::after);
    p.append(&entries, chain, Mono(0)).unwrap();
    entries
}
fn frame(entries: &[Entry], ack: bool) -> Input {
    Input::Frame(Frame::Entries(Entries { entries: entries.to_vec(), ack }), None)
}
fn asked(actions: &[Action]) -> Option<Ask> {
    actions.iter().find_map(|a| if let Action::Ask(ask) = a { Some(ask.clone()) } else { None })
}
fn troubles(actions: &[Action]) -> Vec<Trouble> {
    actions.iter().filter_map(|a| if let Action::Report(t) = a { Some(*t) } else { None }).collect()
}
fn answer(p: &Publisher, ask: &Ask, age_ms: u64) -> AckAnswer {
    AckAnswer {
        nonce: ask.nonce.clone(),
        epoch: p.epoch(),
        head: p.head(),
        chain: p.chain(),
        horizon_floor: p.floor(),
        age_ms,
        time: None,
        position: Some(format!("at {}", p.head())),
        entries: p.tail(ask.epoch, ask.applied, 1000),
        keys: p.keys_unless(Some(&ask.keys)),
    }
}

/// A subscriber that has its first snapshot at `ms`, and its first question.
fn synced(p: &Publisher, ms: i64) -> (Subscriber, Ask) {
    let mut s = Subscriber::new(Config::default());
    assert!(matches!(s.handle(Input::Tick, now(ms))[..], [Action::Connect { identity: None, position: None }]));
    s.handle(Input::Frame(Frame::Hello(hello(p)), None), now(ms));
    let mut ask = None;
    for part in p.snapshot(2) {
        assert!(ask.is_none());
        ask = asked(&s.handle(Input::Frame(Frame::Snapshot(part), None), now(ms)));
    }
    assert!(!s.knowledge().fresh(Mono(ms), now(ms).wall), "a snapshot proves no freshness");
    (s, ask.expect("the first snapshot asks"))
}
fn fresh(s: &Subscriber, ms: i64) -> bool {
    s.knowledge().fresh(Mono(ms), now(ms).wall)
}

#[test]
fn fresh_from_the_question_less_age_for_the_bound_less_a_hundredth() {
    let mut p = Publisher::empty(LOG, Limits::default());
    grow(&mut p, 5);
    let (mut s, ask) = synced(&p, 100);
    assert_eq!(ask.applied, Rev(5));
    let actions = s.handle(Input::Answer(answer(&p, &ask, 40)), now(900));
    assert!(matches!(actions[..], [Action::Publish]));
    let end = 100 - 40 + 4950;
    assert!(fresh(&s, 900) && fresh(&s, end - 1) && !fresh(&s, end));
    // the next one after a third of the bound, counted from the question
    assert_eq!(s.wake_at(), Some(Mono(100 + B / 3)));
    // a heartbeat or entries prove nothing
    s.handle(frame(&[], false), now(3000));
    let more = grow(&mut p, 1);
    s.handle(frame(&more, false), now(3001));
    assert!(!fresh(&s, end));
}

#[test]
fn the_own_bound_shortens_and_never_lengthens() {
    for (own, want) in [(1000, 990), (60_000, 4950)] {
        let p = Publisher::empty(LOG, Limits::default());
        let mut s = Subscriber::new(Config { bound_ms: Some(own), ..Config::default() });
        s.handle(Input::Tick, now(0));
        s.handle(Input::Frame(Frame::Hello(hello(&p)), None), now(0));
        let actions = s.handle(Input::Frame(Frame::Snapshot(p.snapshot(9).remove(0)), None), now(0));
        s.handle(Input::Answer(answer(&p, &asked(&actions).unwrap(), 0)), now(1));
        assert!(fresh(&s, want - 1) && !fresh(&s, want));
    }
}

#[test]
fn publish_comes_before_the_acknowledgement() {
    let mut p = Publisher::empty(LOG, Limits::default());
    let (mut s, ask) = synced(&p, 0);
    s.handle(Input::Answer(answer(&p, &ask, 0)), now(1));
    let more = grow(&mut p, 2);
    let actions = s.handle(frame(&more, true), now(100));
    assert!(matches!(&actions[..], [Action::Publish, Action::Ask(a)] if a.applied == Rev(2)), "{actions:?}");
    // one in flight: the next is asked as soon as that is answered
    let first = asked(&actions).unwrap();
    let more = grow(&mut p, 1);
    assert!(asked(&s.handle(frame(&more, true), now(110))).is_none());
    let actions = s.handle(Input::Answer(answer(&p, &first, 0)), now(120));
    assert_eq!(asked(&actions).unwrap().applied, Rev(3));
}

#[test]
fn a_gap_is_closed_by_an_answer_and_a_long_one_by_pages() {
    let mut p = Publisher::empty(LOG, Limits { recent: 5, set: 1000 });
    let (mut s, ask) = synced(&p, 0);
    s.handle(Input::Answer(answer(&p, &ask, 0)), now(1));
    grow(&mut p, 3);
    let last = grow(&mut p, 1);
    let actions = s.handle(frame(&last, false), now(50));
    assert_eq!(s.knowledge().applied, Rev(0), "nothing beyond a gap is applied");
    let ask = asked(&actions).expect("a gap asks at once");
    s.handle(Input::Answer(answer(&p, &ask, 0)), now(60));
    assert_eq!(s.knowledge().applied, Rev(4));
    grow(&mut p, 20);
    let ask = asked(&s.handle(Input::Tick, now(2000))).unwrap();
    let until = 50 + 4950;
    let actions = s.handle(Input::Answer(answer(&p, &ask, 0)), now(2010));
    assert!(matches!(&actions[..], [Action::Pull { part: 0, rev: None, .. }, Action::Publish]), "{actions:?}");
    assert!(fresh(&s, until - 1) && !fresh(&s, until), "not fresh by an answer whose head is not applied");
    let pages = p.snapshot(10);
    let actions = s.handle(Input::Page(pages[0].clone()), now(2020));
    assert!(matches!(&actions[..], [Action::Pull { part: 1, rev: Some(Rev(24)), .. }]));
    s.handle(Input::Page(pages[1].clone()), now(2030));
    let actions = s.handle(Input::Page(pages[2].clone()), now(2040));
    assert_eq!(s.knowledge().applied, Rev(24));
    assert!(fresh(&s, 2000 + 4949), "now that answer counts");
    assert_eq!(asked(&actions).unwrap().applied, Rev(24));
}

#[test]
fn a_page_of_another_snapshot_begins_again() {
    let mut p = Publisher::empty(LOG, Limits { recent: 1, set: 1000 });
    let (mut s, ask) = synced(&p, 0);
    grow(&mut p, 20);
    s.handle(Input::Answer(answer(&p, &ask, 0)), now(10));
    s.handle(Input::Page(p.snapshot(10).remove(0)), now(20));
    let actions = s.handle(Input::PullFailed { conflict: true }, now(30));
    assert!(matches!(&actions[..], [Action::Pull { part: 0, rev: None, .. }]));
    assert_eq!(s.knowledge().applied, Rev(0));
}

#[test]
fn pages_of_snapshots_under_another_floor_do_not_mix() {
    let mut p = Publisher::empty(LOG, Limits { recent: 1, set: 1000 });
    let (mut s, ask) = synced(&p, 0);
    let until = |i| Time(if i <= 2 { 1_000 } else { 9_000_000 });
    let entries: Vec<Entry> = (1..=9).map(|i| Entry { until: until(i), ..end(i, Target::Session(ses(i))) }).collect();
    p.append(&entries, entries.iter().fold(p.chain(), Chain::after), Mono(0)).unwrap();
    s.handle(Input::Answer(answer(&p, &ask, 0)), now(10));
    let before = p.snapshot(3);
    p.set_floor(Time(2_000));
    let after = p.snapshot(3);
    assert_eq!((before.len(), before[1].rev), (after.len(), after[1].rev), "or this test shows nothing");
    s.handle(Input::Page(before[0].clone()), now(20));
    s.handle(Input::Page(after[1].clone()), now(30)); // 4 and 5 are in neither
    s.handle(Input::Page(after[2].clone()), now(40));
    assert_eq!(s.knowledge().applied, Rev(0));
}

#[test]
fn a_head_below_what_was_applied_renews_nothing() {
    let mut p = Publisher::empty(LOG, Limits::default());
    let behind = p.clone();
    grow(&mut p, 3);
    let (mut s, ask) = synced(&p, 0);
    for (age, trouble) in [(0, Trouble::Rollback), (10, Trouble::Lagging)] {
        let mut s2 = answer(&behind, &ask, age);
        s2.chain = behind.chain();
        let (mut s, _) = synced(&p, 0);
        let actions = s.handle(Input::Tick, now(2000));
        s2.nonce = asked(&actions).unwrap().nonce;
        assert_eq!(troubles(&s.handle(Input::Answer(s2), now(2001))), [trouble]);
        assert!(!fresh(&s, 2001));
    }
    s.handle(Input::Answer(answer(&p, &ask, 0)), now(1));
    assert!(fresh(&s, 2));
}

#[test]
fn forks_other_logs_and_older_epochs_are_refused() {
    let mut p = Publisher::empty(LOG, Limits::default());
    grow(&mut p, 3);
    let (mut s, ask) = synced(&p, 0);
    let mut forked = answer(&p, &ask, 0);
    forked.chain = Chain([7; 32]);
    assert_eq!(troubles(&s.handle(Input::Answer(forked), now(1))), [Trouble::Fork]);
    assert!(!fresh(&s, 1) && !s.connected());
    // an entry at a known position that is another
    let (mut s, ask) = synced(&p, 0);
    s.handle(Input::Answer(answer(&p, &ask, 0)), now(1));
    let more = grow(&mut p, 2);
    s.handle(frame(&more, false), now(2));
    let mut other = more.clone();
    other[1].target = Target::All;
    assert_eq!(troubles(&s.handle(frame(&other, false), now(3))), [Trouble::Fork]);
    let mut h = hello(&p);
    h.chain = Chain([7; 32]);
    let (mut s, _) = synced(&p, 0);
    for (hello, trouble) in [
        (h, Trouble::Fork),
        (Hello { log: LogId::from_bits(1), ..hello(&p) }, Trouble::OtherLog),
        (Hello { v: 2, ..hello(&p) }, Trouble::Version),
    ] {
        let at = s.wake_at().unwrap().0 + 5000;
        s.handle(Input::StreamEnded, now(at));
        s.handle(Input::Tick, now(at + 5000));
        let actions = s.handle(Input::Frame(Frame::Hello(hello), None), now(at + 5001));
        assert_eq!(troubles(&actions), [trouble]);
        assert!(actions.iter().any(|a| matches!(a, Action::Disconnect)) && !s.connected());
    }
}

#[test]
fn a_newer_epoch_ends_everything_until_its_snapshot_and_an_older_one_is_refused() {
    let mut p = Publisher::empty(LOG, Limits::default());
    grow(&mut p, 3);
    let (mut s, ask) = synced(&p, 0);
    s.handle(Input::Answer(answer(&p, &ask, 0)), now(1));
    let ask = asked(&s.handle(Input::Tick, now(2000))).unwrap();
    let mut newer = answer(&p, &ask, 0);
    newer.epoch = Epoch(1);
    let actions = s.handle(Input::Answer(newer), now(2001));
    assert!(!fresh(&s, 2001) && actions.iter().any(|a| matches!(a, Action::Connect { .. })));
    let mut h = hello(&p);
    (h.epoch, h.head) = (Epoch(1), Rev(1 << 32));
    s.handle(Input::Frame(Frame::Hello(h.clone()), None), now(2002));
    assert!(!s.knowledge().synced && s.knowledge().epoch == Epoch(1));
    let old = p.snapshot(10).remove(0);
    s.handle(Input::Frame(Frame::Snapshot(old.clone()), None), now(2003));
    assert!(!s.knowledge().synced, "a snapshot of the older epoch is not taken");
    let mut new = old;
    (new.epoch, new.rev) = (Epoch(1), Rev(1 << 32));
    s.handle(Input::Frame(Frame::Snapshot(new), None), now(2004));
    assert!(s.knowledge().synced);
    s.handle(Input::StreamEnded, now(2005));
    s.handle(Input::Tick, now(9000));
    h.epoch = Epoch(0);
    assert_eq!(troubles(&s.handle(Input::Frame(Frame::Hello(h), None), now(9001))), [Trouble::OlderEpoch]);
}

#[test]
fn a_wall_clock_that_outruns_ends_the_lease() {
    let p = Publisher::empty(LOG, Limits::default());
    let (mut s, ask) = synced(&p, 0);
    s.handle(Input::Answer(answer(&p, &ask, 0)), now(1));
    let k = s.knowledge();
    assert!(k.fresh(Mono(100), Time(1_000_100 + 50)) && !k.fresh(Mono(100), Time(1_000_100 + 51)));
    assert!(k.fresh(Mono(100), Time(0)), "a clock set back hides nothing that is counted");
    let jumped = Now { wall: Time(1_000_100 + 3000), ..now(100) };
    let actions = s.handle(Input::Tick, jumped);
    assert_eq!(troubles(&actions), [Trouble::ClockOutrun]);
    let ask = asked(&actions).expect("asks at once");
    // an answer to a question from before the jump would not help; this one does
    s.handle(Input::Answer(answer(&p, &ask, 0)), Now { wall: Time(1_000_101 + 3000), ..now(101) });
    assert!(s.knowledge().fresh(Mono(101), Time(1_000_101 + 3000)));
}

#[test]
fn a_fast_clock_does_not_run_away_from_the_databases() {
    let p = Publisher::empty(LOG, Limits::default());
    let (mut s, mut ask) = synced(&p, 0);
    let mut told = 0;
    for round in 0..2000 {
        // the machine's clock counts 1% too fast; wall and floor follow the database
        told = 7_000_000 + round * 1700;
        let ms = round * 1717;
        let mut a = answer(&p, &ask, 0);
        (a.time, a.horizon_floor) = (Some(Time(told)), Time(told - 10_000));
        s.handle(Input::Answer(a), now(ms + 1));
        ask = asked(&s.handle(Input::Tick, now(ms + 1717))).unwrap();
    }
    let ahead = s.knowledge().clock(Mono(1999 * 1717 + 1), Time(0)).since(Time(told));
    assert!((0..=700).contains(&ahead), "{ahead}");
}

#[test]
fn keys_come_in_order() {
    let mut p = Publisher::empty(LOG, Limits::default());
    grow(&mut p, 3);
    let (mut s, _) = synced(&p, 0);
    let key = |n| Jwk::es256(KeyId(n), &[4; 65]).unwrap();
    let mut send = |rev, n| {
        s.handle(Input::Frame(Frame::Keys(Keys { rev: Rev(rev), keys: vec![key(n)] }), None), now(5));
        s.knowledge().keys.iter().map(|k| k.kid.0).collect::<Vec<_>>()
    };
    assert_eq!(send(2, 1), Vec::<u32>::new(), "below what is applied");
    assert_eq!(send(3, 2), [2]);
    assert_eq!(send(5, 3), [3]);
    assert_eq!(send(4, 4), [3]);
    assert_eq!(send(5, 2), [3], "a list that was held up, of the same rev");
}

/// A stream that is held up costs no keys: a lease brings them, before it counts.
#[test]
fn who_holds_a_lease_knows_the_keys() {
    let mut p = Publisher::empty(LOG, Limits::default());
    grow(&mut p, 3);
    let key = |n| Jwk::es256(KeyId(n), &[4; 65]).unwrap();
    p.set_keys(vec![key(1), key(2)]);
    let (mut s, ask) = synced(&p, 0);
    assert_eq!(ask.keys, [KeyId(1), KeyId(2)]);
    let told = answer(&p, &ask, 0);
    assert!(told.keys.is_none(), "what is known is not sent");
    s.handle(Input::Answer(told), now(1));
    let kids = |s: &Subscriber| s.knowledge().keys.iter().map(|k| k.kid.0).collect::<Vec<_>>();
    // A rotation writes no entry.
    p.set_keys(vec![key(1), key(2), key(3)]);
    let ask = asked(&s.handle(Input::Tick, now(2000))).unwrap();
    s.handle(Input::Answer(answer(&p, &ask, 0)), now(2001));
    assert_eq!(kids(&s), [1, 2, 3]);
    // What the stream had in its pipe is older, and a snapshot of before as well.
    s.handle(Input::Frame(Frame::Keys(Keys { rev: Rev(3), keys: vec![key(1), key(2)] }), None), now(2002));
    assert_eq!(kids(&s), [1, 2, 3]);
    grow(&mut p, 4);
    let mut old = p.snapshot(100).remove(0);
    old.keys = vec![key(1), key(2)];
    s.handle(Input::Frame(Frame::Snapshot(old), None), now(2003));
    assert_eq!((kids(&s), s.knowledge().applied), (vec![1, 2, 3], p.head()));
    // The end of a key comes with the list of its commit.
    let entry = Entry { verb: Verb::Key, ..end(p.head().0 + 1, Target::Key(KeyId(1))) };
    let chain = p.chain().after(&entry);
    p.set_keys(vec![key(2), key(3), key(4)]);
    p.append(&[entry], chain, Mono(0)).unwrap();
    let ask = asked(&s.handle(Input::Tick, now(4000))).unwrap();
    s.handle(Input::Answer(answer(&p, &ask, 0)), now(4001));
    assert_eq!((kids(&s), s.knowledge().applied), (vec![2, 3, 4], p.head()));
    assert!(s.knowledge().set.key_is_dead(KeyId(1)));
}

#[test]
fn an_instance_that_is_gone_begins_anew_and_keeps_what_it_knows() {
    let mut p = Publisher::empty(LOG, Limits::default());
    grow(&mut p, 3);
    let (mut s, ask) = synced(&p, 0);
    s.handle(Input::Answer(answer(&p, &ask, 0)), now(1));
    let ask = asked(&s.handle(Input::Tick, now(2000))).unwrap();
    let actions = s.handle(Input::AskFailed { nonce: ask.nonce, gone: true }, now(2001));
    assert!(
        matches!(&actions[..], [Action::Disconnect, Action::Connect { identity: None, position: Some(at) }] if at == "at 3")
    );
    assert!(fresh(&s, 2100));
    // A request that wants to know more asks nobody before there is an instance again, and does not make us look all the time.
    s.handle(Input::CatchUp, now(2101));
    assert!(asked(&s.handle(Input::Tick, now(2110))).is_none());
    assert!(s.wake_at().is_none_or(|at| at > Mono(2110)), "{:?}", s.wake_at());
}

#[test]
fn streams_open_again_ever_more_slowly() {
    let mut s = Subscriber::new(Config::default());
    let (mut at, mut waits) = (0, Vec::new());
    for _ in 0..9 {
        assert!(s.handle(Input::Tick, now(at)).iter().any(|a| matches!(a, Action::Connect { .. })));
        s.handle(Input::StreamEnded, now(at));
        waits.push(s.wake_at().unwrap().0 - at);
        at += waits[waits.len() - 1];
    }
    assert!((50..=100).contains(&waits[0]) && waits.iter().all(|w| *w <= 2000) && waits[8] >= 1000, "{waits:?}");
}

#[test]
fn malformed_snapshots_are_refused() {
    let mut p = Publisher::empty(LOG, Limits::default());
    grow(&mut p, 4);
    let mut parts = p.snapshot(2);
    parts[1].entries.reverse();
    let mut s = Subscriber::new(Config::default());
    s.handle(Input::Tick, now(0));
    s.handle(Input::Frame(Frame::Hello(hello(&p)), None), now(0));
    s.handle(Input::Frame(Frame::Snapshot(parts.remove(0)), None), now(0));
    let actions = s.handle(Input::Frame(Frame::Snapshot(parts.remove(0)), None), now(0));
    assert_eq!(troubles(&actions), [Trouble::Malformed]);
    assert!(!s.knowledge().synced);
    // the stream brought none, so pages are pulled
    let actions = s.handle(Input::Tick, now(2000));
    assert!(matches!(&actions[..], [Action::Pull { part: 0, .. }]), "{actions:?}");
}

// ---- a small world: one server, several verifiers, a network that loses, delays and cuts ----

#[derive(Debug)]
enum Mail {
    ToServer(usize, Ask),
    Pull(usize, u32, Option<Rev>),
    Connect(usize, u64, Option<String>),
    ToVerifier(usize, Input),
    /// With the number of the stream it belongs to.
    Stream(usize, u64, Input),
}

struct Node {
    s: Subscriber,
    stream: u64,
    /// The stream that the server has open to it; 0 for none.
    served: u64,
    /// What its monotonic clock failed to count.
    uncounted: i64,
    wall_off: i64,
    paused_until: i64,
    last_in_stream: i64,
}

struct World {
    c: Chance,
    t: i64,
    p: Publisher,
    fleet: Fleet,
    commits: Vec<i64>,
    nodes: Vec<Node>,
    mail: Vec<(i64, Mail)>,
    cut: bool,
    calm: bool,
    pages: Vec<Snapshot>,
    paged_at: i64,
    seen: [u32; 6],
}

impl World {
    fn new(seed: u64) -> Self {
        let mut c = Chance::new(seed);
        let nodes = (0..3)
            .map(|_| Node {
                s: Subscriber::new(Config::default()),
                stream: 0,
                served: 0,
                uncounted: 0,
                wall_off: c.below(100_000) as i64 - 50_000,
                paused_until: 0,
                last_in_stream: 0,
            })
            .collect();
        let p = Publisher::empty(LOG, Limits { recent: 6, set: 1000 });
        let fleet = Fleet::new(B, 0, 100);
        Self {
            c,
            t: 100_000,
            p,
            fleet,
            commits: Vec::new(),
            nodes,
            mail: Vec::new(),
            cut: false,
            calm: false,
            pages: Vec::new(),
            paged_at: 0,
            seen: [0; 6],
        }
    }

    fn clocks(&mut self, n: usize) -> Now {
        let node = &self.nodes[n];
        let (mono, wall) = (self.t * 1009 / 1000 - node.uncounted, 500_000 + self.t + node.wall_off);
        Now { mono: Mono(mono), wall: Time(wall), chance: self.c.next() }
    }

    fn post(&mut self, mail: Mail) {
        if let Mail::Stream(n, stream, _) = &mail
            && self.nodes[*n].served != *stream
        {
            return;
        }
        let loss = if self.cut { 1 } else { 12 };
        if !self.calm && self.c.one_in(loss) {
            let stream_cut = match mail {
                Mail::Stream(n, stream, _) => Some(Mail::Stream(n, stream, Input::StreamEnded)),
                Mail::Connect(n, stream, _) => Some(Mail::Stream(n, stream, Input::StreamEnded)),
                Mail::ToServer(n, ask) => Some(Mail::ToVerifier(n, Input::AskFailed { nonce: ask.nonce, gone: false })),
                Mail::Pull(n, ..) => Some(Mail::ToVerifier(n, Input::PullFailed { conflict: false })),
                Mail::ToVerifier(n, Input::Page(_)) => Some(Mail::ToVerifier(n, Input::PullFailed { conflict: false })),
                Mail::ToVerifier(..) => None,
            };
            if let Some(mail) = stream_cut {
                self.seen[0] += 1;
                if let Mail::Stream(n, ..) = mail {
                    self.nodes[n].served = 0; // nothing comes after a cut
                }
                self.mail.push((self.t + 1 + self.c.below(900) as i64, mail));
            }
            return;
        }
        let mut at = self.t + 1 + self.c.below(if self.c.clone().one_in(8) && !self.calm { 3000 } else { 40 }) as i64;
        if let Mail::Stream(n, ..) = mail {
            at = at.max(self.nodes[n].last_in_stream); // in order, as TCP is
            self.nodes[n].last_in_stream = at;
        }
        self.mail.push((at, mail));
    }

    fn input(&mut self, n: usize, input: Input) {
        let now = self.clocks(n);
        let actions = self.nodes[n].s.handle(input, now);
        for action in actions {
            match action {
                Action::Connect { position, .. } => {
                    self.nodes[n].stream += 1;
                    self.post(Mail::Connect(n, self.nodes[n].stream, position));
                }
                Action::Disconnect => self.nodes[n].stream += 1,
                Action::Ask(ask) => self.post(Mail::ToServer(n, ask)),
                Action::Pull { part, rev, .. } => self.post(Mail::Pull(n, part, rev)),
                Action::Publish => {}
                Action::Report(trouble) => {
                    assert!(matches!(trouble, Trouble::ClockOutrun), "{trouble}");
                    self.seen[1] += 1;
                }
            }
        }
    }

    fn deliver(&mut self, mail: Mail) {
        match mail {
            Mail::ToVerifier(n, input) => self.input(n, input),
            Mail::Stream(n, stream, input) => {
                if self.nodes[n].stream == stream {
                    self.input(n, input);
                }
            }
            Mail::Connect(n, stream, position) => {
                let id = InstanceId::from_bits(n as u128 + 1);
                let (client, policies) = (ClientId::from_bits(1), Policies::default());
                let instance = Instance { id, name: String::new(), client, policies, bound_ms: None };
                self.fleet.known(instance, Mono(self.t)).unwrap();
                self.nodes[n].served = stream;
                let h = Hello { instance: id, ..hello(&self.p) };
                self.post(Mail::Stream(n, stream, Input::Frame(Frame::Hello(h), None)));
                let from = position.and_then(|p| p.parse().ok()).map(Rev);
                let resume = from.map_or(Resume::Snapshot, |rev| self.p.resume(self.p.epoch(), rev, 100));
                let head = Some(self.p.head().to_string());
                let frames = match resume {
                    Resume::Entries(entries) => vec![Frame::Entries(Entries { entries, ack: false })],
                    _ => self.p.snapshot(20).into_iter().map(Frame::Snapshot).collect(),
                };
                for f in frames {
                    self.post(Mail::Stream(n, stream, Input::Frame(f, head.clone())));
                }
            }
            Mail::Pull(n, part, rev) => {
                // the server keeps what it cut into pages for a while
                if part == 0 || self.t - self.paged_at > 10_000 {
                    (self.pages, self.paged_at) = (self.p.snapshot(20), self.t);
                }
                let page = self.pages.get(part as usize).cloned();
                let input = match page.filter(|page| rev.is_none_or(|rev| page.rev == rev)) {
                    Some(page) => Input::Page(page),
                    None => Input::PullFailed { conflict: true },
                };
                self.seen[2] += 1;
                self.post(Mail::ToVerifier(n, input));
            }
            Mail::ToServer(n, ask) => {
                let id = InstanceId::from_bits(n as u128 + 1);
                self.fleet.ack(id, ask.applied, Mono(self.t)).unwrap();
                // a head from an earlier read, with its age
                let age = if self.c.one_in(3) { self.c.below(500) as i64 } else { 0 };
                let head = self.commits.partition_point(|at| *at < self.t - age) as u64;
                let stale = head < self.p.head().0;
                self.fleet.lease_granted(id, Mono(self.t - age), Mono(self.t)).unwrap();
                if stale && head < ask.applied.0 {
                    return; // a lagging answer: told of in its own test
                }
                let mut a = answer(&self.p, &ask, age as u64);
                a.horizon_floor = Time(400_000 + self.t);
                a.position = Some(self.p.head().to_string());
                if stale && let Tail::Entries(entries) = &mut a.entries {
                    entries.retain(|e| e.rev.0 <= head);
                    (a.head, a.position) = (Rev(head), None);
                    let later = self.p.resume(self.p.epoch(), Rev(head), 100);
                    let Resume::Entries(_) = later else { return };
                    a.chain = (1..=head).fold(Chain::genesis(LOG), |c, rev| c.after(&world_entry(rev)));
                }
                self.post(Mail::ToVerifier(n, Input::Answer(a)));
            }
        }
    }

    fn commit(&mut self) {
        let rev = self.p.head().0 + 1;
        let entry = world_entry(rev);
        self.p.append(std::slice::from_ref(&entry), self.p.chain().after(&entry), Mono(self.t)).unwrap();
        self.commits.push(self.t);
        self.fleet.committed(Rev(rev), Mono(self.t));
        for n in 0..self.nodes.len() {
            if self.c.one_in(30) {
                continue; // a gap
            }
            let f = Frame::Entries(Entries { entries: vec![entry.clone()], ack: self.c.one_in(2) });
            let stream = self.nodes[n].served;
            self.post(Mail::Stream(n, stream, Input::Frame(f, Some(rev.to_string()))));
        }
    }

    /// I1 and I2: a fresh verifier has applied everything that was committed longer ago than the bound; and what the
    /// bookkeeping calls complete is applied by every fresh one.
    fn check(&mut self) {
        for n in 0..self.nodes.len() {
            let now = self.clocks(n);
            let k = self.nodes[n].s.knowledge();
            if !k.fresh(now.mono, now.wall) {
                continue;
            }
            self.seen[3] += 1;
            let applied = k.applied.0 as usize;
            if let Some(missed) = self.commits.get(applied) {
                assert!(self.t < missed + B, "verifier {n} at {} lacks {} of {missed}", self.t, applied + 1);
                let e = self.fleet.enforcement(Rev(applied as u64 + 1), Mono(*missed), Mono(self.t));
                assert!(!e.complete, "said complete, but verifier {n} lacks it");
                self.seen[4] += 1;
            }
        }
    }

    fn run(&mut self, ms: i64) {
        let end = self.t + ms;
        while self.t < end {
            let step = self.c.below(30) as i64 + 1;
            self.t += step;
            for n in 0..self.nodes.len() {
                if !self.calm && self.c.one_in(1500) {
                    // the machine sleeps; its monotonic clock may fail to count that
                    let nap = self.c.below(12_000) as i64;
                    self.nodes[n].paused_until = self.t + nap;
                    if self.c.one_in(2) {
                        self.nodes[n].uncounted += nap;
                    }
                    self.seen[5] += 1;
                }
            }
            if self.c.one_in(60) {
                self.commit();
            }
            if self.c.one_in(400) {
                self.cut = !self.cut;
            }
            let t = self.t;
            let awake: Vec<bool> = self.nodes.iter().map(|n| n.paused_until <= t).collect();
            let due = |at: i64, mail: &Mail| {
                at <= t
                    && match mail {
                        Mail::ToVerifier(n, _) | Mail::Stream(n, ..) => awake[*n],
                        _ => true,
                    }
            };
            let (mut now, later): (Vec<_>, Vec<_>) = self.mail.drain(..).partition(|(at, m)| due(*at, m));
            self.mail = later;
            now.sort_by_key(|(at, _)| *at);
            now.into_iter().for_each(|(_, mail)| self.deliver(mail));
            for n in (0..self.nodes.len()).filter(|n| awake[*n]) {
                let now = self.clocks(n);
                if self.nodes[n].s.wake_at().is_some_and(|at| at <= now.mono) {
                    self.input(n, Input::Tick);
                }
            }
            if awake.iter().all(|a| *a) {
                self.check();
            }
        }
    }
}

fn world_entry(rev: u64) -> Entry {
    end(rev, Target::Session(ses(rev % 50)))
}

#[test]
fn bounded_and_honest_in_a_bad_network() {
    let mut seen = [0u32; 6];
    for seed in 0..40 {
        let mut w = World::new(seed);
        w.run(60_000);
        // then everything heals, and everybody is fresh and knows it all
        w.calm = true;
        w.run(35_000);
        for n in 0..3 {
            let now = w.clocks(n);
            let k = w.nodes[n].s.knowledge();
            assert!(k.fresh(now.mono, now.wall), "seed {seed}: {n} is not fresh");
            assert!(k.applied.0 + 3 >= w.p.head().0, "seed {seed}: {n} is at {} of {}", k.applied, w.p.head());
        }
        seen.iter_mut().zip(w.seen).for_each(|(all, one)| *all += one);
    }
    assert!(seen.iter().all(|n| *n > 50), "everything must happen: {seen:?}");
}

#[test]
fn identities_are_not_printed() {
    let identity = Identity { instance: InstanceId::from_bits(1), secret: SecretString::new("hunter2") };
    assert!(!format!("{identity:?}").contains("hunter2"));
}

/// What is taken back with a fork may have been acknowledged, and the lease may rest on it.
#[test]
fn a_lease_does_not_outlive_what_it_rests_on() {
    let mut p = Publisher::empty(LOG, Limits::default());
    grow(&mut p, 3);
    let (mut s, ask) = synced(&p, 0);
    s.handle(Input::Answer(answer(&p, &ask, 0)), now(1));
    // The ninth, so to speak, is genuine, and a lease is given by it; before the answer comes there is another one.
    let genuine = grow(&mut p, 1);
    s.handle(frame(&genuine, false), now(2));
    let ask = asked(&s.handle(Input::Tick, now(2000))).unwrap();
    let given = answer(&p, &ask, 0);
    let lost = grow(&mut p.clone(), 1);
    s.handle(frame(&lost, false), now(2001));
    s.handle(Input::Answer(given), now(2002));
    assert!(fresh(&s, 2003));
    let mut other = lost;
    other[0].target = Target::All;
    assert_eq!(troubles(&s.handle(frame(&other, false), now(2004))), [Trouble::Fork]);
    assert!(!fresh(&s, 2004), "it went back behind what its lease says");
}

/// After the bound was lowered an older lease may last longer than a newer one: the newer one is what a relay goes by.
#[test]
fn a_lease_is_as_fresh_as_the_newest_answer() {
    let mut p = Publisher::empty(LOG, Limits::default());
    grow(&mut p, 1);
    let (mut s, ask) = synced(&p, 0);
    s.handle(Input::Answer(answer(&p, &ask, 0)), now(1));
    let until = s.knowledge().lease.unwrap().until;
    s.handle(Input::StreamEnded, now(2));
    let at = s.wake_at().unwrap().0 + 1000;
    s.handle(Input::Tick, now(at));
    let lower = Hello { bound_ms: 1000, ..hello(&p) };
    let opened = s.handle(Input::Frame(Frame::Hello(lower), Some("x".into())), now(at + 1));
    let ask = asked(&opened).or_else(|| asked(&s.handle(Input::Tick, now(at + 300)))).unwrap();
    s.handle(Input::Answer(answer(&p, &ask, 0)), now(at + 301));
    let lease = s.knowledge().lease.unwrap();
    assert!(lease.from >= portcullis_feed::Mono(at) && lease.until >= until, "{lease:?}");
}
