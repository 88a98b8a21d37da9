//! Which of a verdict's outcomes is carried out, and how far places are apart.
use portcullis_domain::risk::*;

fn hit(rule: &str, outcomes: &[Outcome], shadow: bool) -> Hit {
    Hit { rule: rule.into(), outcomes: outcomes.to_vec(), reason: "why".into(), shadow }
}

fn said(hits: Vec<Hit>) -> Option<(String, Outcome)> {
    strongest(&Verdict { version: "1".into(), hits }).map(|(hit, outcome)| (hit.rule.clone(), outcome))
}

#[test]
fn the_strongest_of_all_hits_counts() {
    use Outcome::*;
    let (short, long) = (Block { for_ms: Some(1) }, Block { for_ms: None });
    let order = [Notify, Throttle, StepUp, EndSession, EndAll, short, long];
    for pair in order.windows(2) {
        let both = |a: usize, b: usize| vec![hit("0", &[pair[a]], false), hit("1", &[pair[b]], false)];
        assert_eq!(said(both(0, 1)), Some(("1".into(), pair[1])));
        assert_eq!(said(both(1, 0)), Some(("0".into(), pair[1])));
        assert_eq!(said(vec![hit("0", pair, false)]), Some(("0".into(), pair[1])));
    }
    assert_eq!(said(vec![hit("a", &[EndAll], false), hit("b", &[EndAll], false)]), Some(("a".into(), EndAll)));
    assert_eq!(said(vec![]), None);
}

#[test]
fn shadows_do_nothing_and_allow_hides_what_comes_after() {
    use Outcome::*;
    assert_eq!(said(vec![hit("a", &[EndAll], true), hit("b", &[Notify], false)]), Some(("b".into(), Notify)));
    assert_eq!(said(vec![hit("a", &[Allow], false), hit("b", &[EndAll], false)]), None);
    assert_eq!(said(vec![hit("a", &[Allow], true), hit("b", &[EndAll], false)]), Some(("b".into(), EndAll)));
    let behind = vec![hit("a", &[StepUp], false), hit("b", &[Allow], false), hit("c", &[EndAll], false)];
    assert_eq!(said(behind), Some(("a".into(), StepUp)));
}

fn spot(lat: f64, lon: f64, radius_km: u16) -> Spot {
    Spot { lat_udeg: (lat * 1e6) as i32, lon_udeg: (lon * 1e6) as i32, radius_km }
}

#[test]
fn ways_that_are_known() {
    // Great-circle distances of cities, as atlases give them.
    for (a, b, km) in [
        ((48.8566, 2.3522), (40.7128, -74.006), 5837),
        ((52.52, 13.405), (51.3397, 12.3731), 149),
        ((-33.8688, 151.2093), (51.5074, -0.1278), 16_994),
        ((0.0, 179.5), (0.0, -179.5), 111),
        ((90.0, 0.0), (-90.0, 0.0), 20_015),
    ] {
        let said = km_between(spot(a.0, a.1, 0), spot(b.0, b.1, 0));
        assert!(said.abs_diff(km) <= km / 200 + 2, "{a:?} {b:?}: {said}, and it is {km}");
    }
}

#[test]
fn what_is_coarse_may_be_near() {
    let (leipzig, berlin) = (spot(51.34, 12.37, 0), spot(52.52, 13.4, 100));
    assert!((45..55).contains(&km_between(leipzig, berlin)));
    assert_eq!(km_between(spot(51.34, 12.37, 60), berlin), 0);
    assert_eq!(km_between(leipzig, leipzig), 0);
}
