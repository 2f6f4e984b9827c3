-- Tells whose request it is. Envoy finds a virtual host by x-gray-key: by the host
-- at first, whose routes tell, in their metadata, which service that is and where
-- its requests carry their account; then by service and account. Whatever a client
-- sent in these headers is replaced.
--
-- The account is the first value of the key in the cookie-encoded header: keys
-- in any order, spaces around names and values, values perhaps in quotes. Lines
-- of a header that comes more than once are joined by commas, so these part
-- pairs too. Domains are compared without case, so every byte but a-z, 0-9 and
-- dash is written in hexadecimal.
--
-- x-gray-slot is the share of one per cent that the account belongs to, by FNV-1a
-- folded once.
local max_header, max_account = 16384, 256
local bxor, lshift, rshift, tobit = bit.bxor, bit.lshift, bit.rshift, bit.tobit

local function escape(c)
  return string.format("_%02x", string.byte(c))
end

local function account_of(value, key)
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

local function slot_of(account)
  local h = tobit(2166136261)
  for i = 1, #account do
    h = bxor(h, string.byte(account, i))
    h = tobit(lshift(h, 24) + h * 403) -- times 16777619, in numbers that a double holds
  end
  return tostring(bxor(h, rshift(h, 16)) % 4294967296 % 100)
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local host = string.gsub(string.lower(headers:get(":authority") or ""), "[^a-z0-9.-]", escape)
  headers:replace("x-gray-key", host)
  headers:replace("x-gray-slot", "99")
  local route = handle:metadata()
  local service = route:get("service")
  if service == nil then
    return
  end
  local value = headers:get(route:get("header")) or ""
  if #value > max_header then
    return
  end
  local account = account_of(value, route:get("key"))
  if account == "" or #account > max_account then
    return
  end
  headers:replace("x-gray-key", service .. "/a" .. string.gsub(account, "[^a-z0-9-]", escape))
  headers:replace("x-gray-slot", slot_of(account))
  handle:clearRouteCache()
end
