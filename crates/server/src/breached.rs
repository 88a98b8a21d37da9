//! The list of stolen passwords (`breached_passwords_file`): opened when the server starts, which it does not with one that is wrong,
//! and opened anew when the file is another one or was changed. One that is wrong then is told in the log; the one before stays in force,
//! unless it is the very file that was changed.
use portcullis_app::App;
use portcullis_app::breached::{List, State};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// How often the file is looked at.
const LOOK: Duration = Duration::from_secs(30);

/// Puts the list in force, and follows its file.
///
/// # Errors
/// What is wrong with it.
pub fn begin(path: PathBuf, app: &App, tasks: &mut tokio::task::JoinSet<()>) -> Result<(), String> {
    let list = List::open(&path).map_err(|why| format!("breached_passwords_file: {}: {why}", path.display()))?;
    let state = list.state();
    tracing::info!(file = %path.display(), "stolen passwords are known from a file");
    app.set_breached(Some(list));
    tasks.spawn(follow(path, app.clone(), state));
    Ok(())
}

async fn follow(path: PathBuf, app: App, first: State) {
    let mut hangup = signal(SignalKind::hangup()).ok();
    let mut known = Known { in_force: Some(first), told: None };
    loop {
        match &mut hangup {
            Some(hangup) => drop(tokio::time::timeout(LOOK, hangup.recv()).await),
            None => tokio::time::sleep(LOOK).await,
        }
        let (path, of, before) = (path.clone(), app.clone(), known.clone());
        let looked = tokio::task::spawn_blocking(move || look(&path, &of, before)).await;
        match looked {
            Ok(now) => known = now,
            Err(error) => tracing::error!(%error, "breached_passwords_file could not be looked at"),
        }
    }
}

/// What is in force, and what was said of the file when it was last looked at, which need not be said again.
#[derive(Debug, Clone)]
struct Known {
    in_force: Option<State>,
    told: Option<(Option<State>, String)>,
}

fn look(path: &Path, app: &App, known: Known) -> Known {
    let file = path.display();
    let (now, opened) = match State::at(path) {
        Ok(now) if known.in_force == Some(now) => return Known { told: None, ..known },
        Ok(now) if known.told.as_ref().is_some_and(|(told, _)| *told == Some(now)) => return known,
        Ok(now) => (Some(now), List::open(path)),
        Err(why) => (None, Err(why)),
    };
    match opened {
        Ok(list) => {
            let state = list.state();
            tracing::info!(%file, "a new list of stolen passwords is in force");
            app.set_breached(Some(list));
            Known { in_force: Some(state), told: None }
        }
        Err(why) => {
            let said = Some((now, why.clone()));
            if known.told == said {
                return known;
            }
            // What was changed in its place is not there any more.
            let same = known.in_force.zip(now).is_some_and(|(before, now)| before.file == now.file);
            if same {
                app.set_breached(None);
                tracing::error!(%file, %why, "breached_passwords_file was changed and cannot be used: no stolen passwords are known");
            } else if known.in_force.is_some() {
                tracing::error!(%file, %why, "breached_passwords_file cannot be used; the list before stays in force");
            } else {
                tracing::error!(%file, %why, "breached_passwords_file cannot be used: no stolen passwords are known");
            }
            Known { in_force: known.in_force.filter(|_| !same), told: said }
        }
    }
}
