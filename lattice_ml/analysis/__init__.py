"""What an ensemble or a model shows: spectra, identities, comparisons, figures and reports.

Everything here works on arrays and functions, never on models: whatever produced the
configurations, the same code looks at them. Import the module that is needed.
"""
