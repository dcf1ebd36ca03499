FROM python:3.11-slim
# chromium: for the tests that open the page of fisher-ld serve
RUN apt-get update && apt-get install -y --no-install-recommends git make chromium && rm -rf /var/lib/apt/lists/*
# -S saves an experiment as a commit
RUN git config --system user.name fisher-ld && git config --system user.email fisher-ld@localhost
WORKDIR /fisher-ld
COPY . .
RUN make setup PYTHON=python3.11
CMD ["make", "repro"]
