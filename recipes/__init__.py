"""Thin scripts and configurations, one folder a job, and the figures they measured."""
