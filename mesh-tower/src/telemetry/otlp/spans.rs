//! The queue of spans: bounded, and with all that goes through it counted. The SDK's own bounds it as well, but tells
//! what it drops to nobody.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, Span, SpanData, SpanExporter, SpanProcessor};

use super::settings::Settings;

/// What became of sampled spans.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct SpanCounts {
    /// They wait for the next export.
    pub queued: u64,
    /// The collector took them.
    pub exported: u64,
    /// Their export failed.
    pub failed: u64,
    /// There was no room in the queue, or the export had ended.
    pub dropped: u64,
}

#[derive(Debug)]
pub(super) struct Counts {
    capacity: u64,
    queued: AtomicU64,
    exported: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
    ended: AtomicBool,
}

impl Counts {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity: capacity as u64,
            queued: AtomicU64::new(0),
            exported: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            ended: AtomicBool::new(false),
        }
    }

    pub(super) fn read(&self) -> SpanCounts {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        SpanCounts {
            queued: load(&self.queued),
            exported: load(&self.exported),
            failed: load(&self.failed),
            dropped: load(&self.dropped),
        }
    }

    /// Takes a place in the queue, if there is one.
    fn admit(&self) -> bool {
        let place = |queued| (queued < self.capacity).then_some(queued + 1);
        let admitted = !self.ended.load(Ordering::Relaxed)
            && self.queued.fetch_update(Ordering::Relaxed, Ordering::Relaxed, place).is_ok();
        if !admitted && self.dropped.fetch_add(1, Ordering::Relaxed) == 0 && !self.ended.load(Ordering::Relaxed) {
            tracing::warn!(
                target: crate::observe::TARGET,
                "the collector does not take spans as fast as they come; {} wait, and what comes now is dropped",
                self.capacity
            );
        }
        admitted
    }
}

/// Queues what `exporter` sends.
pub(super) fn processor(
    exporter: opentelemetry_otlp::SpanExporter,
    settings: &Settings,
    counts: &Arc<Counts>,
) -> Processor {
    let config = BatchConfigBuilder::default()
        .with_max_queue_size(settings.max_queue)
        .with_max_export_batch_size(settings.max_batch)
        .with_scheduled_delay(settings.schedule_delay)
        .build();
    let exporter = Exporter { exporter, counts: Arc::clone(counts) };
    Processor {
        processor: BatchSpanProcessor::builder(exporter).with_batch_config(config).build(),
        counts: Arc::clone(counts),
    }
}

/// In front of the SDK's queue.
#[derive(Debug)]
pub(super) struct Processor {
    processor: BatchSpanProcessor,
    counts: Arc<Counts>,
}

impl SpanProcessor for Processor {
    fn on_start(&self, span: &mut Span, cx: &Context) {
        self.processor.on_start(span, cx);
    }

    fn on_end(&self, span: SpanData) {
        if span.span_context.is_sampled() && self.counts.admit() {
            self.processor.on_end(span);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.processor.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.counts.ended.store(true, Ordering::Relaxed);
        self.processor.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.processor.set_resource(resource);
    }
}

/// Behind it.
#[derive(Debug)]
struct Exporter<E> {
    exporter: E,
    counts: Arc<Counts>,
}

impl<E: SpanExporter> SpanExporter for Exporter<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let count = batch.len() as u64;
        self.counts.queued.fetch_sub(count, Ordering::Relaxed);
        let result = self.exporter.export(batch).await;
        let counter = if result.is_ok() { &self.counts.exported } else { &self.counts.failed };
        counter.fetch_add(count, Ordering::Relaxed);
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
