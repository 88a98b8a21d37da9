//! What tells two that hold one session from one whose answers get lost: who repeats whom, since when, how late, and on what.
use portcullis_domain::risk::{Act, Guesses, Memory, Origin, Place, RefreshSeen, Seen, Signals, Spot, observe};
use portcullis_rules::Policy;
use portcullis_wire::{SessionId, Time};

const HOME: u8 = 1;
const ELSEWHERE: u8 = 2;

/// One account with one session, made at home with Firefox on Windows.
struct World {
    memory: Memory,
    at: Time,
    far: bool,
    policy: Policy,
}

impl World {
    fn new(far: bool) -> Self {
        let (memory, at) = (Memory::default(), Time(1_800_000_000_000));
        let mut world = Self { memory, at, far, policy: Policy::built_in() };
        world.sees(0, HOME, Act::SignIn { known_device: true, breached: false }, "firefox/windows");
        world
    }
    fn sees(&mut self, after_s: i64, network: u8, act: Act, agent: &str) -> Signals {
        self.at = self.at.plus(after_s * 1000);
        let lon_udeg = if network == HOME { 5_000_000 } else { 120_000_000 };
        let spot = self.far.then_some(Spot { lat_udeg: 45_000_000, lon_udeg, radius_km: 50 });
        let seen = Seen {
            at: self.at,
            act,
            session: Some(SessionId::from_bits(7)),
            made: None,
            from: Some(Origin { network: [network; 8], place: Place { spot, ..Place::default() } }),
            agent: agent.into(),
            guesses: Guesses::default(),
        };
        let (signals, after) = observe(&self.memory, &seen);
        assert_eq!(Memory::read(&after.write()), after);
        self.memory = after;
        signals
    }
    fn refresh(&mut self, after_s: i64, network: u8, how: RefreshSeen) -> (Signals, Vec<String>) {
        let signals = self.sees(after_s, network, Act::Refresh(how), "firefox/windows");
        use portcullis_domain::risk::Judge as _;
        let hits = self.policy.judge(&signals).hits.into_iter().map(|hit| hit.rule).collect();
        (signals, hits)
    }
}

/// How many rounds a thief has who is the first with each token, when the owner comes `late_s` after that.
fn rounds_ahead(far: bool, late_s: i64) -> Option<i64> {
    let mut world = World::new(far);
    world.at = world.at.plus(7_200_000);
    (1..=8).find(|_| {
        world.refresh(90, ELSEWHERE, RefreshSeen::Rotated);
        !world.refresh(late_s, HOME, RefreshSeen::Skipped).1.is_empty()
    })
}

#[test]
fn whoever_is_first_with_each_token_is_found() {
    assert_eq!((rounds_ahead(true, 180), rounds_ahead(false, 180)), (Some(3), Some(5)));
    // Who waits for an answer for a minute, and goes on by another way, has lost answers; once an hour is no row.
    assert_eq!((rounds_ahead(true, 60), rounds_ahead(true, 3500)), (None, None));
}

#[test]
fn one_whose_answers_get_lost_is_no_thief() {
    // In the network of the last answer too, or in a new one: it breaks the row.
    let mut world = World::new(true);
    world.at = world.at.plus(7_200_000);
    let mut most = 0;
    for n in 0..12 {
        world.refresh(90, ELSEWHERE, RefreshSeen::Rotated);
        if n % 2 == 1 {
            world.refresh(180, ELSEWHERE, RefreshSeen::Skipped);
        }
        most = most.max(world.refresh(180, HOME, RefreshSeen::Skipped).0.forks);
    }
    assert_eq!(most, 2);
    // Between two that are both new, as on the road, nothing is at home.
    let mut world = World::new(false);
    for n in 0..12_u8 {
        world.refresh(90, 10 + n, RefreshSeen::Rotated);
        assert_eq!(world.refresh(180, 50 + n, RefreshSeen::Skipped).0.forks, 0);
    }
}

/// How many rounds one has who repeats each refresh two seconds later from elsewhere, beginning so long after the sign-in.
fn rounds_behind(far: bool, begins_s: i64) -> Option<i64> {
    let mut world = World::new(far);
    (1..=8).find(|n| {
        world.refresh(if *n == 1 { begins_s } else { 280 }, HOME, RefreshSeen::Rotated);
        !world.refresh(2, ELSEWHERE, RefreshSeen::Again).1.is_empty()
    })
}

#[test]
fn whoever_is_always_seconds_behind_is_found_and_a_box_with_two_lines_is_not() {
    assert_eq!((rounds_behind(true, 3600), rounds_behind(false, 3600)), (Some(3), Some(5)));
    // From the first refresh on: a client that is made so, unless it is on two continents at once.
    assert_eq!((rounds_behind(true, 280), rounds_behind(false, 280)), (Some(5), None));
}

#[test]
fn systems_that_explain_each_other_are_not_others() {
    let says = |made: &str, shown: &str| {
        let mut world = World::new(false);
        world.memory = Memory::default();
        world.sees(0, HOME, Act::SignIn { known_device: true, breached: false }, made);
        let signals = world.sees(7200, ELSEWHERE, Act::Refresh(RefreshSeen::Rotated), shown);
        (signals.other_browser, signals.other_system, signals.other_machine)
    };
    for (made, shown) in
        [("chrome/macos", "chrome/windows"), ("chrome/android", "chrome/windows"), ("a/iphone", "a/linux")]
    {
        assert_eq!(says(made, shown), (true, true, true), "{made} {shown}");
        assert_eq!(says(shown, made), (true, true, true), "{shown} {made}");
    }
    assert_eq!(says("firefox/windows", "firefox/linux"), (true, true, false), "one computer, two systems, one profile");
    // A phone's browser that asks for the pages of computers; an app of which parts do not say that it is a phone's; a backup.
    for (made, shown) in [("chrome/android", "chrome/linux"), ("safari/ipad", "safari/macos"), ("a/iphone", "a/ipad")] {
        assert_eq!(says(made, shown), (true, false, false), "{made} {shown}");
        assert_eq!(says(shown, made), (true, false, false), "{shown} {made}");
    }
    assert_eq!(says("curl/?", "curl/linux"), (true, false, false), "not known");
    assert_eq!(says("curl/linux", "curl/linux"), (false, false, false));
}
