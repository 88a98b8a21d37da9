//! DESIGN §6: how long access tokens live.
use crate::world::{START, Seeded, rules, view};
use portcullis_domain::Rules;
use portcullis_domain::issue::issue;

fn lives(access_ttl: i64) -> (i64, i64) {
    let rules = Rules { longest_ttl: 3_600_000, ..rules() };
    let mut row = view(START);
    row.stamp.now = START;
    row.stamp.horizon = START.plus(3 * 3_600_000);
    let lives = (0..500).map(|seed| {
        let (row, mut chance) = (&row, Seeded(seed));
        let made =
            issue(&row.stamp, &rules, &row.account, &row.session, &row.grant, Some(access_ttl), None, &mut chance);
        made.map(|claims| claims.exp - claims.iat).unwrap()
    });
    let lives: Vec<i64> = lives.collect();
    (*lives.iter().min().unwrap(), *lives.iter().max().unwrap())
}

#[test]
fn lives_are_spread_and_no_token_lives_for_more_than_an_hour() {
    let (least, most) = lives(300_000);
    assert!((240..=250).contains(&least) && (350..=360).contains(&most), "{least} to {most}");
    let (least, most) = lives(3_600_000);
    assert!((2880..=2920).contains(&least) && (3560..=3600).contains(&most), "{least} to {most}");
    // In between, too.
    let (least, most) = lives(3_200_000);
    assert!((2560..=2600).contains(&least) && (3560..=3600).contains(&most), "{least} to {most}");
}
