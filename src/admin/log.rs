//! The log's filters and outputs, read and set while the daemon runs.

use super::Admin;
use crate::blocking;
use crate::error::{Area, Error, Result};
use crate::logging::{OutputError, Plan, PlanError, Target};

/// Longest setting, bytes.
const TEXT_MAX: usize = 1 << 16;

impl Admin {
    /// The filters, in the order in which they are asked.
    #[must_use]
    pub fn log_filters(&self) -> Vec<String> {
        self.log.plan().filters.iter().map(ToString::to_string).collect()
    }

    /// The outputs.
    #[must_use]
    pub fn log_outputs(&self) -> Vec<String> {
        self.log.plan().outputs.iter().map(ToString::to_string).collect()
    }

    /// Replaces the filters by those of `text`, and the outputs by those of `outputs`, both in one step. With `trial` they
    /// are only checked.
    ///
    /// # Errors
    /// `InvalidArg` at the first that makes no sense; `System` for a file that can't be opened.
    pub async fn set_log(&self, filters: Option<String>, outputs: Option<String>, trial: bool) -> Result<()> {
        for text in [&filters, &outputs].into_iter().flatten() {
            if text.len() > TEXT_MAX {
                return Err(refused(format!(
                    "settings of the log longer than {TEXT_MAX} bytes"
                )));
            }
        }
        let around = self.around.clone();
        let make = move |plan: &Plan| -> std::result::Result<Plan, PlanError> {
            let plan = match &filters {
                Some(text) => plan.with_filters(text)?,
                None => plan.clone(),
            };
            match &outputs {
                Some(text) => plan.with_outputs(text, &around),
                None => Ok(plan),
            }
        };
        // What is checked once makes sense whatever the plan is by then.
        let plan = make(&self.log.plan()).map_err(|error| refused(error.for_administrator()))?;
        if trial {
            return Ok(());
        }
        let log = self.log.clone();
        blocking::file("the log", move || {
            log.change(|now| make(now).unwrap_or(plan)).map_err(not_opened)
        })
        .await?;
        tracing::info!(
            filters = self.log_filters().join(" "),
            outputs = self.log_outputs().join(" "),
            "log set"
        );
        Ok(())
    }
}

fn refused(text: String) -> Error {
    Error::argument(text).in_area(Area::None)
}

fn not_opened(error: OutputError) -> Error {
    let what = match error.target {
        Target::File(path) => path.components().as_path().display().to_string(),
        other => format!("{other:?}"),
    };
    Error::system(format!("failed to open {what}"), error.reason).in_area(Area::None)
}
