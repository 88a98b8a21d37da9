//! `portcullis config check`: the settings as `serve` would read them.
use crate::breached;
use crate::cli::exit::{Exit, Failure, Outcome};
use crate::cli::{out, table};
use crate::settings::sources::Flags;
use crate::settings::{self, Problems, Settings};
use serde_json::json;

/// Shows every setting with its source, or every problem with its place.
pub fn check(flags: &Flags, as_json: bool) -> Outcome {
    // What is in the files is looked at here and when the server starts: other commands do without.
    let looked = Settings::load(flags).and_then(|settings| match &settings.breached {
        Some(list) => breached::check(list).map(|_| settings).map_err(|why| Problems(vec![why])),
        None => Ok(settings),
    });
    let settings = match looked {
        Ok(settings) => settings,
        Err(problems) if as_json => {
            out::json(&json!({ "ok": false, "problems": problems.0 }));
            return Ok(Exit::Usage);
        }
        Err(problems) => return Err(Failure::config(problems)),
    };
    if as_json {
        out::json(&settings::to_json(&settings));
        return Ok(Exit::Done);
    }
    let row = |s: &settings::Shown| vec![s.name.into(), s.value.clone(), s.source.to_string()];
    let rows: Vec<Vec<String>> = settings.shown.iter().map(row).collect();
    out::line(&table::render(&["SETTING", "VALUE", "FROM"], &rows));
    for warning in &settings.warnings {
        out::complain(&format!("warning: {warning}"));
    }
    Ok(Exit::Done)
}
