//! What tells two that hold one session from one whose answers get lost: who repeats whom, since when, how late, and on what.
use portcullis_domain::device;
use portcullis_domain::risk::{Act, Guesses, Made, Memory, Origin, Place, RefreshSeen, Seen, Signals, Spot, observe};
use portcullis_rules::Policy;
use portcullis_wire::{SessionId, Time};

const HOME: u8 = 1;
const ELSEWHERE: u8 = 2;

/// One account with one session, made at home with Firefox on Windows.
struct World {
    memory: Memory,
    at: Time,
    far: bool,
    /// Whether countries are known: home is in one, all else in another.
    countries: bool,
    /// What the User-Agent says beside browser and system.
    build: device::Build,
    /// When the current token was made, where that is said.
    token_at: Option<Time>,
    policy: Policy,
}

impl World {
    fn new(far: bool) -> Self {
        let (memory, at) = (Memory::default(), Time(1_800_000_000_000));
        let (countries, build) = (false, device::Build::default());
        Self { memory, at, far, countries, build, token_at: None, policy: Policy::built_in() }.signed_in()
    }
    fn abroad(user_agent: &str) -> Self {
        let (memory, build) = (Memory::default(), device::build(Some(user_agent)));
        Self { memory, countries: true, build, ..Self::new(false) }.signed_in()
    }
    fn signed_in(mut self) -> Self {
        let world = &mut self;
        world.sees(0, HOME, Act::SignIn { known_device: true, breached: false }, "firefox/windows");
        self
    }
    fn sees(&mut self, after_s: i64, network: u8, act: Act, agent: &str) -> Signals {
        self.at = self.at.plus(after_s * 1000);
        let lon_udeg = if network == HOME { 5_000_000 } else { 120_000_000 };
        let spot = self.far.then_some(Spot { lat_udeg: 45_000_000, lon_udeg, radius_km: 50 });
        let country = self.countries.then_some(if network == HOME { *b"RO" } else { *b"MD" });
        let seen = Seen {
            at: self.at,
            act,
            session: Some(SessionId::from_bits(7)),
            made: self.token_at.map(|at| Made { at: Time(0), agent: "firefox/windows".into(), token_at: Some(at) }),
            from: Some(Origin { network: [network; 8], place: Place { spot, country, ..Place::default() } }),
            agent: agent.into(),
            build: self.build,
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

/// The same of one who repeats from abroad, while countries are known, and of a client that now and then loses both answers.
#[test]
fn whoever_asks_by_two_ways_near_each_other_is_not_behind() {
    let rounds = |countries: bool, here: u8, there: u8, loses: bool| {
        let mut world = World { countries, ..World::new(false) };
        world.memory = Memory::default();
        world = world.signed_in();
        world.at = world.at.plus(7_200_000);
        world.refresh(0, here, RefreshSeen::Rotated);
        world.at = world.at.plus(7_200_000);
        (1..=8).find(|n| {
            world.refresh(280, here, RefreshSeen::Rotated);
            let found = !world.refresh(3, there, RefreshSeen::Again).1.is_empty();
            if loses && n % 3 == 0 {
                world.refresh(63, there, RefreshSeen::Skipped);
            }
            found
        })
    };
    assert_eq!((rounds(true, HOME, ELSEWHERE, false), rounds(false, HOME, ELSEWHERE, false)), (Some(5), Some(5)));
    assert_eq!(rounds(true, 7, ELSEWHERE, false), None, "both ways are in one country");
    assert_eq!(rounds(false, HOME, ELSEWHERE, true), None, "nobody who shares the answers loses them");
}

/// How many rounds one has who is seconds ahead of the owner with each refresh, beginning so long after the sign-in.
fn rounds_before(far: bool, begins_s: i64, alone: bool) -> Option<i64> {
    let mut world = World::new(far);
    (1..=8).find(|n| {
        world.refresh(if *n == 1 { begins_s } else { 280 }, ELSEWHERE, RefreshSeen::Rotated);
        let found = !world.refresh(4, HOME, RefreshSeen::Again).1.is_empty();
        if alone {
            world.refresh(280, ELSEWHERE, RefreshSeen::Rotated);
            world.refresh(280, HOME, RefreshSeen::Rotated);
        }
        found
    })
}

#[test]
fn whoever_is_always_seconds_ahead_is_found_and_a_way_out_without_answers_is_not() {
    assert_eq!(rounds_before(true, 3600, false), Some(3));
    // A client that is made so, or whose two ways end near each other, or one that goes on alone by the first of them.
    assert_eq!(rounds_before(true, 280, false), Some(5));
    assert_eq!((rounds_before(false, 3600, false), rounds_before(true, 3600, true)), (None, None));
}

/// How many days one has who uses a fresh copy each night.
fn nights(countries: bool, rests_h: i64, uses: bool) -> Option<i64> {
    let mut world = World { countries, ..World::new(false) };
    world.memory = Memory::default();
    world = world.signed_in();
    (1..=6).find(|_| {
        world.refresh(rests_h * 3600, ELSEWHERE, RefreshSeen::Rotated);
        if uses {
            world.refresh(300, HOME, RefreshSeen::Rotated);
            world.refresh(300, ELSEWHERE, RefreshSeen::Rotated);
        }
        !world.refresh(6 * 3600, HOME, RefreshSeen::Skipped).1.is_empty()
    })
}

#[test]
fn whoever_uses_a_fresh_copy_each_night_is_found_and_one_on_a_journey_is_not() {
    assert_eq!(nights(true, 18, false), Some(3));
    // Within one country answers get lost each day at the same place; who goes there uses what came there; once a week is no row.
    assert_eq!((nights(false, 18, false), nights(true, 18, true), nights(true, 170, false)), (None, None, None));
    // Twice in an evening is one day.
    assert_eq!(nights(true, 1, false), Some(5));
}

/// What is said of a session that was made with the one and goes on with the other.
fn goes_on(made: &str, shown: &str, after_s: i64, network: u8) -> Vec<String> {
    let mut world = World::abroad(made);
    world.build = device::build(Some(shown));
    world.refresh(after_s, network, RefreshSeen::Rotated).1
}

#[test]
fn no_update_makes_a_browser_older_or_a_phone_another() {
    let firefox =
        |version: u32| format!("Mozilla/5.0 (Windows NT 10.0; Win64; x64) Gecko/20100101 Firefox/{version}.0");
    let hit = ["older-than-it-was"];
    let (month, hour) = (30 * 86_400, 3600);
    assert_eq!(goes_on(&firefox(142), &firefox(141), month, ELSEWHERE), hit);
    for (shown, network) in
        [(firefox(143), ELSEWHERE), (firefox(142), ELSEWHERE), (firefox(141), HOME), (String::new(), ELSEWHERE)]
    {
        assert!(goes_on(&firefox(142), &shown, month, network).is_empty(), "{shown}");
    }
    let phone = "Pay/7.2 (Android 14; SM-A546B)";
    for other in
        ["Pay/7.2 (Android 13; SM-A546B)", "Pay/7.2 (Android 14; sdk_gphone64)", "Pay/7.3 (Android 15; Pixel 8)"]
    {
        assert_eq!(goes_on(phone, other, hour, ELSEWHERE), hit, "{other}");
        // A phone that was moved to another one, long ago or at home.
        let later = goes_on(phone, other, month, ELSEWHERE);
        assert_eq!(later.is_empty(), other != "Pay/7.2 (Android 13; SM-A546B)", "the same phone does not go back");
        assert!(goes_on(phone, other, hour, HOME).is_empty());
    }
    for same in ["Pay/7.2 (Android 15; SM-A546B)", "Pay/8.0 (Android 14)", "Pay/7.0 (Android 14; SM-A546B)"] {
        assert!(goes_on(phone, same, hour, ELSEWHERE).is_empty(), "{same}");
    }
    // Another program in the same session is another matter; and who came with less is not its owner the next time.
    let mut world = World::abroad(phone);
    world.build = device::build(Some("Pay/7.2 (Android 13; SM-A546B)"));
    let act = Act::Refresh(RefreshSeen::Rotated);
    assert!(!world.sees(hour, ELSEWHERE, act, "other/android").older_build);
    assert!(world.sees(hour, ELSEWHERE, act, "firefox/windows").older_build);
    assert!(world.sees(60, 3, act, "firefox/windows").older_build);
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

/// One look from far away, and hours later the owner's own browser goes on with the same token.
#[test]
fn whoever_was_far_away_once_is_found_and_one_who_had_been_there_is_not() {
    let once = |far: bool, late_s: i64, given_there: bool, before: bool| {
        let mut world = World { countries: true, far, ..World::new(far) };
        world.memory = Memory::default();
        world = world.signed_in();
        if before {
            world.refresh(7200, 3, RefreshSeen::Rotated);
            world.refresh(7200, HOME, RefreshSeen::Rotated);
        }
        world.refresh(30_000, ELSEWHERE, RefreshSeen::Rotated);
        world.token_at = Some(world.at.plus(if given_there { 300_000 } else { 0 }));
        world.refresh(late_s, HOME, RefreshSeen::Skipped).1
    };
    assert_eq!(once(true, 7200, false, false), ["once-far-away"]);
    for (far, late_s, given_there, before) in
        [(true, 1800, false, false), (false, 7200, false, false), (true, 7200, true, false), (true, 7200, false, true)]
    {
        assert!(once(far, late_s, given_there, before).is_empty(), "{far} {late_s} {given_there} {before}");
    }
}

/// Where it is new, or was when the session went there: what an app's update may have named so is another program only abroad.
#[test]
fn another_program_ends_where_the_account_never_was() {
    let shows = |made: &str, shown: &str, countries: bool| {
        let mut world = World { countries, ..World::new(false) };
        world.memory = Memory::default();
        world.sees(0, HOME, Act::SignIn { known_device: true, breached: false }, made);
        world.sees(30_000, ELSEWHERE, Act::Refresh(RefreshSeen::Rotated), made);
        let signals = world.sees(7200, ELSEWHERE, Act::Refresh(RefreshSeen::Rotated), shown);
        use portcullis_domain::risk::Judge as _;
        world.policy.judge(&signals).hits.into_iter().map(|hit| hit.rule).collect::<Vec<_>>()
    };
    let hit = ["browser-became-another"];
    assert_eq!(shows("noten/macos", "python-httpx/?", true), hit, "hours after it had gone there");
    assert_eq!(shows("noten/macos", "python-httpx/?", false), hit);
    assert!(shows("noten/android", "okhttp/?", true).is_empty(), "an update on a journey");
}
