//! Writes series of prometheus-client's collectors.

use std::fmt::Error;

use prometheus_client::{
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet},
    metrics::MetricType,
    registry::Unit,
};

/// Labels of one series.
pub(super) type Labels = Vec<(&'static str, String)>;

/// Writes a counter.
pub(super) fn counter(
    encoder: &mut MetricEncoder,
    labels: &Labels,
    value: f64,
) -> Result<(), Error> {
    if labels.is_empty() {
        return encoder.encode_counter::<NoLabelSet, f64, f64>(&value, None);
    }
    encoder.encode_family(labels)?.encode_counter::<NoLabelSet, f64, f64>(&value, None)
}

/// Writes a gauge.
pub(super) fn gauge(encoder: &mut MetricEncoder, labels: &Labels, value: f64) -> Result<(), Error> {
    if labels.is_empty() {
        return encoder.encode_gauge(&value);
    }
    encoder.encode_family(labels)?.encode_gauge(&value)
}

/// Writes 1 for true, 0 for false.
pub(super) fn flag(encoder: &mut MetricEncoder, labels: &Labels, value: bool) -> Result<(), Error> {
    gauge(encoder, labels, f64::from(u8::from(value)))
}

/// A metric that is read from a `T`: a gauge or a counter.
pub(super) struct Field<T> {
    /// Name without unit and `_total`, which prometheus-client appends.
    pub(super) name: &'static str,
    /// One sentence.
    pub(super) help: &'static str,
    /// Unit of the value.
    pub(super) unit: Option<Unit>,
    /// Gauge or counter.
    pub(super) kind: MetricType,
    /// The value; `None` is absent.
    pub(super) value: fn(&T) -> Option<f64>,
}

impl<T> Field<T> {
    /// Writes the series of all sources that have a value; nothing if none has.
    pub(super) fn encode<'a>(
        self,
        encoder: &mut DescriptorEncoder,
        sources: impl IntoIterator<Item = (Labels, &'a T)>,
    ) -> Result<(), Error>
    where
        T: 'a,
    {
        let Self { name, help, unit, kind, value } = self;
        let sources = sources.into_iter();
        let known: Vec<_> =
            sources.filter_map(|(labels, source)| Some((labels, value(source)?))).collect();
        if known.is_empty() {
            return Ok(());
        }
        let write = if matches!(kind, MetricType::Gauge) { gauge } else { counter };
        let mut family = encoder.encode_descriptor(name, help, unit.as_ref(), kind)?;
        known.iter().try_for_each(|(labels, value)| write(&mut family, labels, *value))
    }
}
