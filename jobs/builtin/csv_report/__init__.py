"""The kind `csv.report`: a profile and a one-file HTML report of any CSV, read as a stream.

`profiler.profile_csv` is the whole reading and knows neither Django nor the engine; `report.render_report` makes the
page, `summary.summarise` the JSON result, `handler` joins the three to a job.
"""
