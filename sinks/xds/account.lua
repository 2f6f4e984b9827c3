-- Makes x-gray-key of the host and the account, by which Envoy finds the virtual
-- host. Whatever a client sent as x-gray-key is replaced.
--
-- The account is the first value of the key in the cookie-encoded header: keys
-- in any order, spaces around names and values, values perhaps in quotes. Lines
-- of a header that comes more than once are joined by commas, so these part
-- pairs too. Domains are compared without case, so every byte but a-z, 0-9, dot
-- and dash is written in hexadecimal.
local header, key = "x-ucloud-routeby", "account_id"
local max_header, max_account = 4096, 256

local function escape(c)
  return string.format("_%02x", string.byte(c))
end

local function account_of(value)
  local at = 1
  while at <= #value do
    local _, stop, name = string.find(value, "^[%s;,]*([^=;,]*)", at)
    at = stop + 1
    if string.sub(value, at, at) == "=" then
      local _, last, text = string.find(value, '^=%s*"([^"]*)"%s*', at)
      if text == nil or not (last == #value or string.find(value, "^[;,]", last + 1)) then
        _, last, text = string.find(value, "^=%s*([^;,]*)", at)
        text = string.match(text, "^.*%S") or ""
      end
      at = last + 1
      if string.match(name, "^.*%S") == key then
        return text
      end
    end
  end
  return ""
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local host = string.gsub(string.lower(headers:get(":authority") or ""), "[^a-z0-9.-]", escape)
  local value = headers:get(header) or ""
  local account = ""
  if #value <= max_header then
    account = account_of(value)
  end
  if account == "" or #account > max_account then
    headers:replace("x-gray-key", host .. "/-")
  else
    headers:replace("x-gray-key", host .. "/a" .. string.gsub(account, "[^a-z0-9.-]", escape))
  end
end
