//! Distances on the earth, in whole kilometres. There is no mathematics library here, and none is needed for places that are known to
//! within kilometres.
use super::Spot;

/// The earth's mean radius.
const EARTH_KM: f64 = 6371.0;
const PI: f64 = core::f64::consts::PI;

/// How far apart two spots are at least: the way between their middles, less how coarsely both are known. 0 when they may be the same.
pub fn km_between(a: Spot, b: Spot) -> u32 {
    let far = middle_km(a, b) - f64::from(a.radius_km) - f64::from(b.radius_km);
    // Not negative, and at most half the way around the earth.
    if far > 0.0 { far as u32 } else { 0 }
}

fn middle_km(a: Spot, b: Spot) -> f64 {
    let (p, q) = (unit(a), unit(b));
    let square = (0..3).map(|n| (p[n] - q[n]) * (p[n] - q[n])).sum::<f64>();
    // The chord's half is the sine of half the angle.
    2.0 * EARTH_KM * asin((root(square) / 2.0).min(1.0))
}

/// The point on the unit sphere.
fn unit(spot: Spot) -> [f64; 3] {
    let rad = |udeg: i32| f64::from(udeg) / 1e6 * PI / 180.0;
    let (lat, lon) = (rad(spot.lat_udeg), rad(spot.lon_udeg));
    let around = cos(lat);
    [around * cos(lon), around * sin(lon), sin(lat)]
}

fn cos(x: f64) -> f64 {
    sin(x + PI / 2.0)
}

/// Its series, after the angle was brought into a quarter of the circle, where eight terms are exact to a millimetre.
fn sin(x: f64) -> f64 {
    let mut x = x % (2.0 * PI);
    if x > PI {
        x -= 2.0 * PI;
    } else if x < -PI {
        x += 2.0 * PI;
    }
    if x > PI / 2.0 {
        x = PI - x;
    } else if x < -PI / 2.0 {
        x = -PI - x;
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..10 {
        term *= -x * x / f64::from(2 * n * (2 * n + 1));
        sum += term;
    }
    sum
}

/// By Newton's steps, for 0 ≤ x ≤ 4.
fn root(x: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    let mut r = if x > 1.0 { x } else { 1.0 };
    for _ in 0..40 {
        r = (r + x / r) / 2.0;
    }
    r
}

/// For 0 ≤ x ≤ 1, by Newton's steps from below.
fn asin(x: f64) -> f64 {
    // Abramowitz and Stegun 4.4.45: off by less than 7e-5, which is half a kilometre.
    PI / 2.0 - root(1.0 - x) * (1.570_728_8 + x * (-0.212_114_4 + x * (0.074_261_0 - 0.018_729_3 * x)))
}
