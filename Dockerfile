FROM python:3.11-slim
RUN apt-get update && apt-get install -y --no-install-recommends git make && rm -rf /var/lib/apt/lists/*
WORKDIR /fisher-ld
COPY . .
RUN make setup PYTHON=python3.11
CMD ["make", "repro"]
